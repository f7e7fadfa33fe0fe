"""`python -m bptcnn_cli`."""

from bptcnn_cli.main import main

main()

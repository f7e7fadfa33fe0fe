"""A coordinator to be killed or interrupted: trains in a process of its own until it is told to end.

python driving.py FOLDER UPDATE NODES      exits 130 after Ctrl-C, as the command line does
"""

import signal
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from training.runs import data, run  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may have been started without
try:
    run(Path(sys.argv[1]), data(300, 50), nodes=int(sys.argv[3]), epochs=100_000, update=sys.argv[2])
except KeyboardInterrupt:
    sys.exit(130)

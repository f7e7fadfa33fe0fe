"""Package data: the embedded sample of Fashion-MNIST, its licence, and the script that makes it.

May import `bptcnn.data`; nothing imports it, `bptcnn.data.embedded` reads its files as resources.
"""

"""Writes a file twice, the second time on a full disk, as far as the process can tell.

python limited.py PATH      prints what the second attempt raised
"""

import resource
import signal
import sys
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import write_atomically

path = Path(sys.argv[1])
write_atomically(path, b"first")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomically(path, bytes(1_000_000))
except UserError as error:
    print(error)

"""Mutated input for everything that reads what others have written: `python -m tests.fuzz --help`.

    python -m tests.fuzz                            10,000 cases over all kinds; a table, exit code 1 for failures
    python -m tests.fuzz --cases 500 --kind lr      of one kind (repeat --kind for more)
    python -m tests.fuzz --kind lr --replay 17      one case again, with its traceback
    python -m tests.fuzz --list                     the kinds

From the root of a checkout, with PYTHONPATH=.:cli. A case is known by its kind and its seed: nothing else decides what
it is. `harness` says what a failure is. The small version is tests/fuzz/test_fuzz.py.
"""

import sys
from pathlib import Path

sys.path[:0] = [path for path in [str(Path(__file__).resolve().parent.parent)] if path not in sys.path]

from fuzz.running import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One thread's arithmetic, compiled for this CPU, and the atomics that the layers above build on.

Imports numba, llvmlite and numpy only. Never knows of graphs, threads, networks or files, the cache's apart.
"""

from bptcnn.own_settings import import_numba

import_numba()

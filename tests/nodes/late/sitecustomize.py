"""Imported by every Python that has this folder on its path: an agent waits until the file $AGENTS_START exists."""

import os
import sys
import time

if "bptcnn.nodes.agent" in sys.orig_argv:
    while not os.path.exists(os.environ["AGENTS_START"]):
        time.sleep(0.01)

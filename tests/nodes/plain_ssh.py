"""An `ssh` to this machine without sshd: sockets that it forwards are links, and the command runs in a shell.

BPTCNN_SSH=".../python .../plain_ssh.py"
"""

import os
import sys

ONE_ARGUMENT = ("-o", "-p")


def main() -> None:
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word == "-G":  # its configuration is asked for: there is none
            return
        if word == "-R":
            there, here = next(arguments).split(":")
            if here == os.devnull:
                os.close(os.open(there, os.O_CREAT))
            else:
                os.symlink(here, there)
        elif word in ONE_ARGUMENT:
            next(arguments)
        elif word == "--":
            break
    os.execv("/bin/sh", ["sh", "-c", sys.argv[-1]])


if __name__ == "__main__":
    main()

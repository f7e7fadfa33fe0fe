"""The command line: typer commands, rich displays, exit codes.

May import everything of `bptcnn`, inside the commands: `bptcnn --help` loads none of it. Never knows arithmetic or
sockets.
"""

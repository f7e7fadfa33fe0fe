"""What our ssh connections set, whatever the user's configuration says.

The user's configuration says how a host is reached: names, users, keys, jump hosts, proxies, ciphers, how host keys are
checked, Kerberos (a home may lie on a file system that wants it). That stays. What would make another session of ours
than one that runs our command, over pipes, until we end it, is set here; all of ssh_config(5) was gone through for it.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import lru_cache

ALIVE_SECONDS, ALIVE_COUNT = 5, 3  # a link that is gone is noticed after their product
_VERSION_SECONDS = 2.0

_ALWAYS = (0, 0)
_OPTIONS = (  # the option, the first OpenSSH that knows it (others end on what they do not know), why
    # nobody is there
    ("BatchMode=yes", _ALWAYS, "nobody can type a password: fail instead of waiting"),
    ("AddKeysToAgent=no", (7, 2), "with `ask` or `confirm` a window would open"),
    ("UpdateHostKeys=no", (6, 8), "with `ask` it asks; many connections at once would all rewrite known_hosts"),
    # the session is our command's
    ("RemoteCommand=none", (7, 6), "ssh refuses a second command, as with `RemoteCommand tmux`"),
    ("SessionType=default", (8, 7), "`none` runs no command, `subsystem` another one"),
    ("RequestTTY=no", (5, 9), "a terminal changes bytes"),
    ("EscapeChar=none", _ALWAYS, "bytes arrive as they are sent"),
    ("StdinNull=no", (8, 7), "the agent's configuration comes on standard input"),
    ("ForkAfterAuthentication=no", (8, 7), "ssh in the background is out of our hands"),
    ("PermitLocalCommand=no", _ALWAYS, "a local command would run here for every connection"),
    ("ChannelTimeout=none", (9, 7), "standard input is silent for a whole run"),
    # it ends with us, and when the link does
    ("ControlMaster=no", _ALWAYS, "with a shared connection, killing our ssh would leave its session alive"),
    ("ControlPath=none", _ALWAYS, "likewise"),
    ("ControlPersist=no", (5, 6), "likewise"),
    ("ConnectionAttempts=1", _ALWAYS, "how often and how long is tried is said by `timeout`"),
    (f"ServerAliveInterval={ALIVE_SECONDS}", _ALWAYS, "a link that is gone is noticed"),
    (f"ServerAliveCountMax={ALIVE_COUNT}", _ALWAYS, "likewise"),
    # it forwards our sockets and nothing else
    ("ExitOnForwardFailure=yes", _ALWAYS, "a node without its socket would wait for ever"),
    ("StreamLocalBindMask=0177", (6, 7), "sockets are the user's alone"),
    ("Tunnel=no", _ALWAYS, "a tunnel needs root, and there is one device for all connections"),
    ("ForwardAgent=no", _ALWAYS, "hosts get nothing that they do not need"),
    ("ForwardX11=no", _ALWAYS, "likewise"),
    # what it says is what went wrong
    ("LogLevel=ERROR", _ALWAYS, "banners and warnings would hide the line that matters"),
    ("LogVerbose=none", (8, 5), "likewise"),
    ("VisualHostKey=no", _ALWAYS, "likewise"),
)


def session_options(client: Sequence[str]) -> Iterator[str]:
    """Yield the options that the ssh of this command line knows."""
    try:
        version = _version(tuple(client))
    except (OSError, subprocess.TimeoutExpired):  # not kept: it may be descriptors that are lacking
        version = _ALWAYS
    yield from (option for option, since, _ in _OPTIONS if since <= version)


@lru_cache
def _version(client: tuple[str, ...]) -> tuple[int, int]:
    """Return the version of OpenSSH; (0, 0): something else, or a wrapper that does not tell."""
    told = subprocess.run(
        [*client, "-V"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_VERSION_SECONDS,
        start_new_session=True,
    )
    found = re.search(rb"OpenSSH_(?:for_Windows_)?(\d{1,3})\.(\d{1,3})", told.stderr + told.stdout)
    return (int(found[1]), int(found[2])) if found else _ALWAYS

"""What ssh and the program behind it print when they fail: which lines of it say why."""

import re

from bptcnn.untrusted import printable

_MOST_LINES = 3
_MOST_SEARCHED = 1000  # characters of a line
_MOST_SHOWN = 300  # characters of lines that are not ours

_NOISE = re.compile(  # lines that are printed whether something is wrong or not
    r"""
    \s*$ | \ \  | \t | Traceback          # empty ones, those that go on with the one above, a traceback's first
    | [\W_]+$ | ([*\#|=~-]).*\1\s*$       # decoration, and boxes around banners
    | \*\*\                               # OpenSSH 10's notices about keys exchanged without post-quantum methods
    | Warning:\ (?!remote)                # of ssh: hosts that were added to known_hosts, X11
    | debug[123]:\  | OpenSSH_\d | Authenticated\ to\  | Transferred: | Bytes\ per\ second:
    | (?:Shared\ )?[Cc]onnection\ to\ \S+\ closed\.? | Killed\ by\ signal\ | Pseudo-terminal\ will\ not\ be
    | X11\ forwarding\ request\ failed | Last\ login: | Agent\ pid\b
    | .*\bsetlocale: | .*:\ warning:\ .*\blocale\b | perl:\ warning: | manpath:\ can't\ set\ the\ locale
    | .*\bstty:\ | .*\btput:\  | .*\bmesg:\  | stdin:\ is\ not\ a\ tty | TERM\ environment\ variable\ not\ set
    | .*cannot\ set\ terminal\ process\ group | .*no\ job\ control\ in\ this\ shell
    """,
    re.VERBOSE,
)
_OF_THE_END = re.compile(  # ssh's words for a connection that has ended: another line says why, where there is one
    r"(?:kex|ssh)_exchange_identification: |(?:Connection|Disconnected|Received disconnect) (?:closed|reset|from)\b"
    r"|banner exchange: |ssh_dispatch_run_fatal: |client_loop: |Read from remote host |(?:mux_)?client_"
    r"|Timeout, server "
)
_TURNED_AWAY = re.compile(  # ssh's words for a server that ends a connection before anybody has logged in
    r"^(?:kex|ssh)_exchange_identification: .*(?:closed|reset|Broken pipe)"
    r"|^ssh_dispatch_run_fatal: .*(?:closed|reset|Broken pipe)"
    r"|^banner exchange: .*(?:Connection reset|Broken pipe)"
    r"|^Connection (?:closed|reset) by "
    r"|Exceeded MaxStartups|Not allowed at this time",
    re.MULTILINE,
)
_DECIDED = re.compile(  # what another attempt would not change
    r"Permission denied \(|Too many authentication failures|Host key verification failed"
    r"|HOST IDENTIFICATION HAS CHANGED|host key is known for|no matching "
)


def short_lines(printed: str) -> list[str]:
    """Return the lines, each cut: what is searched for stands at their beginning, and they may be long."""
    return [line[:_MOST_SEARCHED] for line in printed.splitlines()]


def last_words(printed: str) -> str:
    """Return the last lines that say something, at most three, as one printable line; "": nothing was said."""
    lines = short_lines(printed)
    telling = [line for line in lines if not _NOISE.match(line)] or [line for line in lines if line.strip()][-1:]
    return _joined(telling)


def own_words(printed: str) -> str:
    """Return as `last_words` what was said beside ssh's own words for a connection that has ended."""
    return _joined([line for line in short_lines(printed) if not (_NOISE.match(line) or _OF_THE_END.match(line))])


def turned_away(exit_code: int, printed: str) -> bool:
    """Tell whether a server that is busy may have closed the connection: it may be tried again."""
    return exit_code == 255 and _TURNED_AWAY.search(printed) is not None and not _DECIDED.search(printed)


def _joined(lines: list[str]) -> str:
    last = list(dict.fromkeys(printable(line, 2 * _MOST_SHOWN).strip() for line in lines))[-_MOST_LINES:]
    while len(last) > 1 and len("; ".join(last)) > _MOST_SHOWN:
        del last[0]
    shown = "; ".join(last)
    return shown if len(shown) <= _MOST_SHOWN else shown[: _MOST_SHOWN - 3] + "..."

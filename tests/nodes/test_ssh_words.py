"""Which lines of what ssh and hosts print are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.nodes.ssh_words import last_words, own_words, turned_away

LOCALE = "bash: warning: setlocale: LC_ALL: cannot change locale (xx_YY.UTF-8)"
POST_QUANTUM = (
    "** WARNING: connection is not using a post-quantum key exchange algorithm.\n"
    '** This session may be vulnerable to "store now, decrypt later" attacks.\n'
    "** The server may need to be upgraded. See https://openssh.com/pq.html\n"
)
BANNER = "*******************\n* Authorised only *\n#  use is logged  #\n*******************\n"
PERL = (
    "perl: warning: Setting locale failed.\nperl: warning: Please check that your locale settings:\n"
    '\tLANGUAGE = (unset),\n\tLC_ALL = "xx"\n    are supported and installed on your system.\n'
)
CLOSED = "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("", ""),
        (f"{LOCALE}\nthe vault is sealed\n", "the vault is sealed"),
        (f"the vault is sealed\n{LOCALE}\n", "the vault is sealed"),
        (f"{POST_QUANTUM}{BANNER}{PERL}the vault is sealed", "the vault is sealed"),
        ("Warning: Permanently added 'a' (ED25519) to the list of known hosts.\nodd", "odd"),
        ("a\nb\nc\nd\n", "b; c; d"),
        ("a\na\na\nb", "a; b"),
        (f"{LOCALE}\n\n", LOCALE),  # nothing else is there
        ("Traceback (most recent call last):\n  File x\n    y\nOSError: odd\n", "OSError: odd"),
        ("debug1: x\ndebug3: y\nodd\nKilled by signal 1.\n", "odd"),
        ("stty: 'standard input': Inappropriate ioctl for device\nodd", "odd"),
        ("\x1b[31modd\x07", "[31modd"),
        ("a" * 1000, "a" * 297 + "..."),
        ("a" * 200 + "\n" + "b" * 200, "b" * 200),
    ],
)
def test_the_last_lines_that_say_something_are_shown(printed: str, shown: str) -> None:
    assert last_words(printed) == shown


@given(st.text(max_size=2000))
def test_whatever_is_printed_is_one_bounded_line(printed: str) -> None:
    for shown in (last_words(printed), own_words(printed)):
        assert shown.isprintable()
        assert len(shown) <= 300


def test_a_proxys_own_words_are_told_from_sshs() -> None:
    assert own_words(f"the vault is sealed\n{LOCALE}\n{CLOSED}") == "the vault is sealed"
    assert own_words(CLOSED) == ""


@pytest.mark.parametrize(
    ("code", "printed", "again"),
    [
        (255, CLOSED, True),
        (
            255,
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 10.0.0.1 port 22",
            True,
        ),
        (255, "ssh_exchange_identification: Connection closed by remote host", True),
        (255, "ssh_dispatch_run_fatal: Connection to 10.0.0.1 port 22: Connection reset by peer", True),
        (255, "Not allowed at this time", True),
        (1, CLOSED, False),  # the host's own ssh said it
        (255, "ssh: connect to host a port 22: Connection refused", False),
        (255, "Connection timed out during banner exchange\nConnection to 10.0.0.1 port 22 timed out", False),
        (255, "a@b: Permission denied (publickey).\nConnection closed by 10.0.0.1 port 22", False),
        (255, "Host key verification failed.\n" + CLOSED, False),
    ],
)
def test_what_is_tried_again(code: int, printed: str, again: bool) -> None:
    assert turned_away(code, printed) is again


def test_long_lines_are_searched_at_their_beginning_only() -> None:
    said = last_words("the vault is sealed " + ": warning: " * 200 + "locale")
    assert said.startswith("the vault is sealed : warning: ")
    assert len(said) <= 300

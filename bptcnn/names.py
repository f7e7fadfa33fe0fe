"""Names of files and folders: any bytes but zero, as Linux has them; as users write them, as our own files hold them.

A path in memory is what `os.fsdecode` makes of the bytes. The text in a run folder or a packet is UTF-8 whatever the
locale: the path itself, or, where its bytes are no UTF-8 or not printable, a file URI (RFC 8089) with them as %NN.
`path_of` reads both back.
"""

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from bptcnn.errors import UserError
from bptcnn.untrusted import printable

_URI = "file://"


def path_of(name: str | os.PathLike[str]) -> Path:
    """Return the path that a user, a configuration or `text_of` names: ~ and ~user are home folders, as in a shell.

    A folder that is called ~ is ./~ here, and the path returned stays the same if it comes here again. Raises UserError
    where there is no home folder, and for a URI of another machine.
    """
    text = os.fspath(name)
    if not isinstance(text, str):  # os.PathLike[bytes], which Python users may give
        text = os.fsdecode(text)
    if text.startswith(_URI):
        text = _of_uri(text)
    found = os.path.expanduser(text)
    if found == text and (text == "~" or text.startswith("~/")):
        raise UserError(f"{printable(text, 200)}: you have no home folder here: set HOME, or give the whole path")
    path = Path(found)
    if not _can_be(found):
        raise UserError(f"{printable(found, 200)} cannot be the name of a file")
    return path.absolute() if str(path).startswith("~") else path


def _can_be(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can hold
        return False


def text_of(name: str | os.PathLike[str]) -> str:
    """Return a path, or another name, as text that TOML, JSON and a terminal can hold, the same in every locale."""
    content = os.fsencode(name)
    text = content.decode(errors="replace")
    is_plain = text.isprintable() and text.encode() == content and not text.startswith(_URI)
    return text if is_plain else _URI + quote_from_bytes(os.path.abspath(content))


def file_name(text: str) -> str:
    """Return text of ours, such as a node's name, as the name of a file: in UTF-8, whatever the locale."""
    return os.fsdecode(text.encode(errors="surrogateescape"))


def _of_uri(text: str) -> str:
    """Return the path of a file URI: no host, or this one."""
    host, slash, path = text.removeprefix(_URI).partition("/")
    if host not in ("", "localhost") or not slash:
        raise UserError(f"{printable(text, 200)}: a file URI of this machine begins with {_URI}/")
    if not _can_be(path):
        return path
    return os.fsdecode(b"/" + unquote_to_bytes(os.fsencode(path)))

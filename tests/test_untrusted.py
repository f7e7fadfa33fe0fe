import json
import math
import os
import threading
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn import untrusted
from bptcnn.errors import UserError
from bptcnn.untrusted import Between, Length, Malformed, build, parse_json, parse_toml, printable, read_text


@dataclass(frozen=True)
class Point:
    x: Annotated[float, Between(0.0, 10.0)]
    y: int = 0


@dataclass(frozen=True)
class Shape:
    name: Annotated[str, Length(1, 8)]
    kind: Literal["open", "closed"]
    points: tuple[Point, ...]
    size: tuple[int, int] | None = None
    tags: dict[str, str] = field(default_factory=dict)
    fill: bool = False
    area: Annotated[float, Between(1e-6, 1e6)] | None = None


GOOD = {"name": "star", "kind": "open", "points": [{"x": 1, "y": 2}], "size": [3, 4], "tags": {"a": "b"}, "fill": True}


def one_line(error: pytest.ExceptionInfo[Malformed]) -> str:
    message = str(error.value)
    assert message.isprintable()
    assert 0 < len(message) < 1000
    return message


def test_a_dataclass_is_built_from_a_table() -> None:
    assert build(Shape, {**GOOD, "area": None}) == Shape("star", "open", (Point(1.0, 2),), (3, 4), {"a": "b"}, True)
    assert isinstance(build(Point, {"x": 1, "y": 0}).x, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name is '', not text of 1 to 8 characters"),
        ({"name": "123456789"}, "name is '123456789', not text of 1 to 8 characters"),
        ({"name": 1}, "name is 1, not text of 1 to 8 characters"),
        ({"kind": "round"}, "kind is 'round', not one of open, closed"),
        ({"kind": []}, "kind is a list, not one of open, closed"),
        ({"points": [{"x": -1, "y": 0}]}, "points[0].x is -1, not a number from 0 to 10"),
        ({"points": [{"x": math.nan, "y": 0}]}, "points[0].x is nan, not a number from 0 to 10"),
        ({"points": [{"x": True, "y": 0}]}, "points[0].x is True, not a number from 0 to 10"),
        ({"points": [{"x": 1, "y": 1.0}]}, "points[0].y is 1.0, not a whole number"),
        ({"points": [{"x": 1, "y": 2**80}]}, "points[0].y is a huge number, not a whole number"),
        ({"points": [{"x": 1}]}, "points[0].y is missing"),
        ({"points": [{"x": 1, "y": 1, "z": 1}]}, "points[0] has no 'z'"),
        ({"points": {"x": 1}}, "points is a table, not a list of 0 to 65536 items"),
        ({"points": [7]}, "points[0] is no table: 7"),
        ({"size": [1, 2, 3]}, "size is a list, not a list of 2 items"),
        ({"tags": {"a": 1}}, "tags.a is 1, not text of 0 to 10000 characters"),
        ({"fill": 1}, "fill is 1, not true or false"),
        ({"area": 0.0}, "area is 0.0, not a number from 1e-06 to 1e+06"),
        ({"area": math.inf}, "area is inf, not a number from 1e-06 to 1e+06"),
        ({"area": "x\ny"}, "area is 'x y', not a number from 1e-06 to 1e+06"),
        ({"other": 1}, "Shape has no 'other'"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(Malformed) as error:
        build(Shape, {**GOOD, "area": None, **change})
    assert one_line(error) == said


def test_fields_may_lack_where_that_is_asked_for() -> None:
    assert build(Point, {"x": 3}, partial=True) == Point(3.0)
    with pytest.raises(Malformed, match=r"p\.y is missing"):
        build(Point, {"x": 3}, "p")
    with pytest.raises(Malformed, match="x is missing"):
        build(Point, {}, partial=True)
    with pytest.raises(Malformed, match="Point is no table: None"):
        build(Point, None)


def test_what_a_dataclass_refuses_is_malformed() -> None:
    @dataclass(frozen=True)
    class Even:
        n: int

        def __post_init__(self) -> None:
            if self.n % 2:
                raise UserError(f"{self.n} is odd")

    assert build(Even, {"n": 2}).n == 2
    with pytest.raises(Malformed, match=r"^3 is odd$"):
        build(Even, {"n": 3})


def test_arrays_are_passed_as_they_are() -> None:
    @dataclass(frozen=True)
    class Work:
        indices: np.ndarray[tuple[int], np.dtype[np.int32]]

    indices = np.arange(3, dtype=np.int32)
    assert build(Work, {"indices": indices}).indices is indices
    with pytest.raises(Malformed, match="indices is a list, not an array"):
        build(Work, {"indices": [1]})


def test_text_comes_out_printable() -> None:
    assert build(Shape, {**GOOD, "area": None, "name": "a\x1b[2J\n\ud800"}).name == "a [2J  "
    assert printable("x" * 20, 3) == "xxx"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == value
    assert parse_json(json.dumps(value, ensure_ascii=True).encode()) == value


@given(st.binary(max_size=300) | st.text(alphabet='[]{}",:\\01e9 tN\n', max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes) -> None:
    for parse in (parse_json, parse_toml):
        try:
            parse(content)
        except Malformed as error:
            message = str(error)
        else:
            continue
        assert message.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 33 + b"]" * 33,
        b'"' + b'\\"' * 200_000,
        b'"\\',
        b"9" * 100_000,
        b"1e999",
        b"-1e999",
        b"NaN",
        b"[Infinity]",
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"",
        b" " * (untrusted.MOST_TEXT_BYTES + 1),
    ],
)
def test_json_that_harms_is_refused(content: bytes) -> None:
    with pytest.raises(Malformed) as error:
        parse_json(content)
    one_line(error)


def test_brackets_in_text_are_no_depth() -> None:
    text = "[" * 100 + '"\\'
    assert parse_json(json.dumps([text, "]" * 100])) == [text, "]" * 100]
    assert parse_json("[" * 32 + "]" * 32) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a=" * 10_000,
        b".".join([b"a"] * 300_000) + b" = 1",
        b'"a" . ' * 40 + b"a = 1",
        b"[" + b".".join([b"a"] * 100) + b"]",
        b"a = " + b"[" * 40 + b"]" * 40,
        b"a = " + b"9" * 100_000,
        b"a = 1\na = 2",
        b"a = 2024-13-45",
        b"\x00",
        b"x" * (untrusted.MOST_TEXT_BYTES + 1),
    ],
)
def test_toml_that_harms_is_refused(content: bytes) -> None:
    with pytest.raises(Malformed) as error:
        parse_toml(content)
    one_line(error)


def test_toml_is_read_with_a_byte_order_mark_and_without() -> None:
    text = '[[host]]\naddress = "a.b.c"\nspeed = 0.5\n'
    assert parse_toml(text) == parse_toml(b"\xef\xbb\xbf" + text.encode()) == tomllib.loads(text)


def test_a_long_word_takes_no_time_of_its_own() -> None:
    """It would take minutes if each of its characters began a search of all the others."""
    with pytest.raises(Malformed):
        parse_toml("a" * untrusted.MOST_TEXT_BYTES)


def test_files_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve")
    assert read_text(path, "hosts file") == "naïve"
    for content, said in ((b"\xff", "it is no text in UTF-8"), (b"x" * 11, "it is longer than 10 bytes")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read the hosts file {path}: {said}"):
            read_text(path, "hosts file", 10)
    with pytest.raises(UserError, match=f"no hosts file at {tmp_path / 'g'}"):
        read_text(tmp_path / "g", "hosts file")
    with pytest.raises(UserError, match="Is a directory"):
        read_text(tmp_path, "hosts file")
    with pytest.raises(UserError, match="it is longer than 100 bytes"):
        read_text("/dev/zero", "hosts file", 100)


def test_pipes_are_read_and_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "_READ_SECONDS", 0.3)
    reader, writer = os.pipe()
    try:
        with pytest.raises(UserError, match="nothing came for"):
            read_text(f"/dev/fd/{reader}", "configuration")
        thread = threading.Thread(target=lambda: (os.write(writer, b"a = 1"), os.close(writer)))
        thread.start()
        assert read_text(f"/dev/fd/{reader}", "configuration") == "a = 1"
        thread.join()
    finally:
        os.close(reader)

"""Names that are no UTF-8 are stored as text and come back exactly."""

import json
import os

import pytest

from llava_rad.names import escape_name, one_line, plain_text, unescape_name

NAMES = [
    (b"scan.dcm", "scan.dcm"),
    ("Thorax übersicht 胸.dcm".encode(), "Thorax übersicht 胸.dcm"),
    (b"scan\xff.dcm", r"scan\xff.dcm"),
    (b"M\xfcller/\x80\xe4.png", r"M\xfcller/\x80\xe4.png"),
    # What looks like an escape is none.
    (rb"scan\xff.dcm", r"scan\x5cxff.dcm"),
    (rb"a\x5cxff" + b"\xff", r"a\x5cx5cxff" + r"\xff"),
    (b"back\\slash\\", "back\\slash\\"),
    (b"\\\xff", r"\\xff"),
    (b"new\nline", "new\nline"),
    (rb"\x41\uffff\xFF", r"\x41\uffff\xFF"),
]


@pytest.mark.parametrize(("raw", "stored"), NAMES)
def test_a_name_is_stored_as_utf8_and_comes_back(raw: bytes, stored: str) -> None:
    name = os.fsdecode(raw)
    assert escape_name(name) == stored
    assert json.loads(json.dumps(escape_name(name), ensure_ascii=False).encode()) == stored
    assert os.fsencode(unescape_name(stored)) == raw


def test_every_short_name_of_the_hard_letters_comes_back() -> None:
    letters = ["\\", "x", "u", "5", "c", "d", "f", "\udcff", "\ud800"]
    names = [""]
    for _ in range(5):
        names = [name + letter for name in names for letter in letters]
    stored = {escape_name(name) for name in names}
    assert len(stored) == len(names)
    for name in names[::7]:
        assert unescape_name(escape_name(name)) == name
        escape_name(name).encode()


def test_a_person_sees_one_line() -> None:
    assert one_line("a\nb\tc\x1b[31m\u202ed\udcff é") == r"a\nb\tc\x1b[31m\u202ed\xff é"
    assert one_line(r"C:\new") == r"C:\new"
    assert plain_text("\udcff\ud800\n") == r"\xff" + r"\ud800" + "\n"

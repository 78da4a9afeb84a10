"""The journal survives kills, and refuses what it does not know."""

import pytest

from llava_rad.errors import DataError
from llava_rad.serve.journal import Journal

FILES = {"a.dcm": (10, 123456789)}


def test_what_was_done_begun_and_unsent_is_known_after_a_restart(tmp_path):
    path = tmp_path / "state" / "journal.jsonl"
    journal = Journal(path)
    journal.begin("s1", ["s1.dcm"])
    journal.finish("s1", FILES, run="r", send=["s1.dcm"])
    journal.finish("s2", FILES, run="r", error="truncated_image")
    journal.begin("s3", ["s3.dcm"])
    again = Journal(path)
    assert again.is_done("s1", FILES) and again.is_done("s2", FILES)
    assert not again.is_done("s1", {"a.dcm": (11, 123456789)})
    assert not again.is_done("s3", FILES) and again.knows("s3.dcm")
    assert (again.count("s1"), again.count("s2")) == (1, 0)
    assert again.unsent == ["s1.dcm"]
    again.sent("s1.dcm")
    assert Journal(path).unsent == []
    assert path.stat().st_mode & 0o077 == 0


def test_a_line_that_was_cut_off_was_not_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.finish("s1", FILES, run="r")
    whole = path.read_bytes()
    journal.finish("s2", FILES, run="r")
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path)
    assert again.is_done("s1", FILES) and not again.is_done("s2", FILES)
    assert path.read_bytes() == whole
    again.finish("s2", FILES, run="r")
    assert Journal(path).is_done("s2", FILES)


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"study": "s"}\n'])
def test_something_else_is_no_journal(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"journal\.jsonl:1: not a journal.*Move it away"):
        Journal(path)
    assert path.read_bytes() == content

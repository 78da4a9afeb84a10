"""The user's cache: what it holds, how it is cleared and kept small."""

import json
import os
import sqlite3
import time

import pytest
from typer.testing import CliRunner

from llava_rad.caches import (
    cache_limit,
    clear_entries,
    keep_within_limit,
    list_entries,
    open_private_database,
)
from llava_rad.cli import app
from llava_rad.errors import ConfigError
from llava_rad.metrics.store import TextStore


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Three things of 3, 2 and 1 kB, the largest used last, and what is no business of ours."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLAVA_RAD_CACHE", str(folder))
    monkeypatch.delenv("LLAVA_RAD_CACHE_LIMIT", raising=False)
    for name, size, days in (("llm/a", 3000, 2), ("llm/b", 2000, 4), ("models/c", 1000, 3)):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_bytes(bytes(size))
        used = time.time() - days * 86400
        os.utime(folder / name, (used, used))
    (folder / "foreign").write_bytes(bytes(9000))
    (folder / "llm" / ".converting-x").mkdir()
    return folder


def names():
    return [entry.name for entry in list_entries()]


def run(*arguments):
    return CliRunner().invoke(app, ["cache", *arguments])


def test_everything_of_ours_is_listed_with_its_size(cache):
    assert [(e.name, e.size) for e in list_entries()] == [
        ("llm/a", 3000),
        ("llm/b", 2000),
        ("models/c", 1000),
    ]
    shown = run("list").stdout.splitlines()
    assert shown[0].split()[:2] == ["3.0", "kB"]
    assert "llm/a  (a base LLM" in shown[0]
    assert shown[-1].split("in ")[0].strip() == "6.0 kB"
    assert shown[-1].endswith(f"in {cache}, no limit")
    found = json.loads(run("list", "--format", "json").stdout)
    assert found["bytes"] == 6000
    assert [entry["name"] for entry in found["entries"]] == names()


def test_clearing_takes_what_is_named_or_all_and_nothing_else(cache):
    result = run("clear", "llm/a")
    assert result.exit_code == 0
    assert "3.0 kB freed" in result.stderr
    assert names() == ["llm/b", "models/c"]
    for wrong in ("llm/x", "foreign", "../cache/llm/b", "llm"):
        with pytest.raises(ConfigError, match="holds nothing of this name"):
            clear_entries([wrong])
    assert run("clear").exit_code == 2
    assert run("clear", "llm/b", "--all").exit_code == 2
    assert run("clear", "--all").exit_code == 0
    assert names() == []
    assert (cache / "foreign").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 tb", 15 * 10**11), ("7", 7), ("3kB", 3000), ("", None)],
)
def test_a_limit_is_a_size(monkeypatch, text, size):
    monkeypatch.setenv("LLAVA_RAD_CACHE_LIMIT", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["GB", "-1GB", "20 apples", "1e9"])
def test_a_limit_that_is_no_size_is_told(monkeypatch, text):
    monkeypatch.setenv("LLAVA_RAD_CACHE_LIMIT", text)
    with pytest.raises(ConfigError, match="is no size"):
        cache_limit()


def test_what_was_used_least_recently_makes_room(cache, monkeypatch):
    assert keep_within_limit(cache / "llm" / "a") == []
    monkeypatch.setenv("LLAVA_RAD_CACHE_LIMIT", "4500")
    assert keep_within_limit(cache / "llm" / "a") == ["llm/b"]
    monkeypatch.setenv("LLAVA_RAD_CACHE_LIMIT", "1")
    os.utime(cache / "models" / "c")  # in use
    assert keep_within_limit(cache / "llm" / "a") == []
    assert names() == ["llm/a", "models/c"]


@pytest.mark.parametrize("mask", [0o022, 0o002])
def test_annotations_are_for_the_user_alone_wherever_they_lie(tmp_path, mask):
    before = os.umask(mask)
    try:
        with TextStore(tmp_path / "shared" / "radgraph.sqlite", str) as store:
            store.write({"large effusion": {"text": "large effusion", "entities": {}}})
            inside = list((tmp_path / "shared").iterdir())
            assert {path.stat().st_mode & 0o777 for path in inside} == {0o600}
    finally:
        os.umask(before)
    file = tmp_path / "shared" / "radgraph.sqlite"
    file.chmod(0o644)  # of an earlier version
    open_private_database(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
    (entry,) = list_entries(tmp_path / "shared")
    assert "words of reports" in entry.holds
    clear_entries([entry.name], tmp_path / "shared")
    assert not file.exists()


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "x.sqlite").write_text("nothing of the kind" * 99)
    connection = open_private_database(tmp_path / "x.sqlite")
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT * FROM annotations")
    connection.close()

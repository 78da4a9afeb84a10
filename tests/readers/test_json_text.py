"""JSON and JSON lines: values, or an error that names file and line."""

import pytest

from llava_rad.errors import DataError, WeightsError
from llava_rad.readers import CONSTANTS, parse_json, read_json, read_json_lines


@pytest.fixture
def write(tmp_path):
    def _write(content, name="f.json"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": 1,\n"b": }', r"f\.json:2: not JSON: Expecting value"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 50_000, "nested too deep"),
        ("[1,\n" + "9" * 5000 + "]", r"f\.json:2: .*too many digits"),
        ("[1,\n1e999]", r"f\.json:2: .*'1e999' is too large"),
        ("[-1e400]", "too large"),
        ("[\nNaN]", r"f\.json:2: .*NaN is no number"),
        ("[Infinity]", "Infinity is no number"),
        ('["a",\n"\\ud800"]', r"f\.json:2: .*half a character"),
        ('{"\\udfff": 1}', "half a character"),
        # Depth that Python's reader takes and a search for half characters does not.
        (f'{"[" * 990}"\\ud800"{"]" * 990}', "half a character|nested too deep"),
        ('"\x01"', "not JSON"),
        (b'{"a": "\xff"}', r"f\.json:1: not UTF-8"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"{}\0", "NUL bytes"),
        ("", "not JSON: Expecting value"),
    ],
)
def test_no_exception_of_a_library_comes_through(write, content, says):
    path = write(content)
    with pytest.raises(WeightsError, match=says) as caught:
        read_json(path, error=WeightsError, remedy="Restore the file")
    assert str(caught.value).endswith("Restore the file.") or caught.value.remedy
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_values_are_read(write):
    assert read_json(write("\ufeff" + '{"a": [1, 2.5, "\\ud83d\\ude00", null]}')) == {
        "a": [1, 2.5, "\U0001f600", None]
    }
    assert read_json(write("[NaN, -Infinity]"), constants=CONSTANTS)[1] == float("-inf")


def test_what_must_be_an_object_is_one(write):
    with pytest.raises(DataError, match="expected an object, got a list"):
        read_json(write("[1]"), expect=dict)
    with pytest.raises(DataError, match="expected a list, got 'x'"):
        read_json(write('"x"'), expect=list)


def test_absent_files(tmp_path):
    for path in (tmp_path / "no", tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 400)):
        for read in (read_json, lambda p: list(read_json_lines(p))):
            with pytest.raises(DataError, match="cannot be read"):
                read(path)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ('{"a": 1', "not_json", "column"),
        ('{"a": 1, "a": 2}', "not_json", "the key 'a' is given twice"),
        ("[1]", "not_an_object", "got a list"),
        ("null", "not_an_object", "got nothing"),
        ("[" * 50_000, "not_json", "nested too deep"),
        ('{"a": 1e999}', "not_json", "too large"),
        ('{"a": "\\udc00"}', "not_json", "half a character"),
        ('{"a": "\0"}', "not_json", "control character"),
    ],
)
def test_a_wrong_line_is_named(write, line, kind, says):
    path = write(f'{{"a": 0}}\n\n{line}\n')
    with pytest.raises(DataError, match=says) as caught:
        list(read_json_lines(path))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert caught.value.kind == kind


def test_lines_with_their_numbers(write):
    path = write(b'\xef\xbb\xbf{"a": 1}\r\n \n{"a": "\\ud83d"}\n')
    halves = []
    found = list(read_json_lines(path, replace_surrogates=lambda: halves.append(1)))
    assert found == [(1, {"a": 1}), (3, {"a": "?"})] and halves == [1]


def test_a_text_of_bytes():
    assert parse_json(b'{"a": 1}', where="x") == {"a": 1}

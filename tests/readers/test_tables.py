"""Tables: the right cells, or an error that names file, line and remedy."""

import contextlib
import gzip
import random

import pytest

from llava_rad.errors import DataError, MetricError
from llava_rad.readers import read_columns, read_parquet, read_row, read_table


@pytest.fixture
def write(tmp_path):
    def _write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


def rows(path, *columns):
    return [dict(row) for row in read_table(path, columns)]


def test_cells_are_stripped_and_words_for_missing_are_empty(write):
    path = write("\ufeffid,findings,view\n1, Clear. ,nan\n2,N/A,PA\n3,None of it,-\n")
    assert rows(path) == [
        {"id": "1", "findings": "Clear.", "view": ""},
        {"id": "2", "findings": "", "view": "PA"},
        {"id": "3", "findings": "None of it", "view": ""},
    ]


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.csv.gz", "t.tsv.gz", "odd.txt"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_tabs_commas_and_gzip_are_told_by_content(write, name, separator):
    text = f'a{separator}b\n1{separator}"x\ny"\n'.encode()
    path = write(gzip.compress(text) if name.endswith(".gz") else text, name)
    assert rows(path) == [{"a": "1", "b": "x\ny"}]
    assert read_columns(path) == ["a", "b"]


def test_gzip_under_a_plain_name_and_line_ends_of_old_macs(write):
    assert rows(write(gzip.compress(b"a,b\n1,2\n"))) == [{"a": "1", "b": "2"}]
    assert rows(write("a,b\r1,2\r3,4\r")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_row_knows_its_first_line(write):
    path = write('a,b\n1,"x\ny\nz"\n\n2,w\n')
    assert [row.where for row in read_table(path)] == [f"{path}:2", f"{path}:6"]


def test_parquet_cells_are_texts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": ["a", None], "age": [40.0, float("nan")], "n": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet", "id") == [
        {"id": "a", "age": "40.0", "n": "1"},
        {"id": "", "age": "", "n": "2"},
    ]
    assert read_columns(tmp_path / "t.parquet") == ["id", "age", "n"]
    with pytest.raises(DataError, match="no column 'findings'"):
        rows(tmp_path / "t.parquet", "findings")


POURED = 'id,text\ns1,"The lungs are clear.\ns2,Large effusion on the left."\ns3,Normal.\n'


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        # One report would run into the next.
        ('id,text\ns1,"Clear.\ns2,"Effusion."\ns3,Normal.\n', "bad_table", ":2: not a CSV table"),
        ('id,text\ns1,Clear.\ns2,"Effusion.\ns3,Normal.\n', "bad_table", ":3: .*not closed"),
        (POURED, "bad_table", ":2: a cell holds what looks like another row .'s2,Large effusion"),
        ('id,text\ns1,"a "quoted" word"\n', "bad_table", 'write a quote .* twice \\(""\\)'),
        # Cut off in the last row.
        ("id,text\ns1,Lungs clear.\ns2,Clea", "cut_off", ":3: .*with 'Clea'.*end it with a line"),
        ("id,text,view\ns1,Clear.,PA\ns2,Clea", "cut_off", ":3:"),
        ("id,text,view\ns1,Clear.,PA\ns2,Clear.,P", "cut_off", ":3:"),
        ("id,text,view\ns1,Clear.,PA\ns2,Clear.\n", "bad_row", ":3: the row has 2 cells"),
        # A comma that is not quoted shifts the columns.
        ("id,text,view\ns1,Clear, no mass,PA\n", "bad_row", "4 cells, and the header 3 columns"),
        ("id,id\n1,2\n", "repeated_column", "'id' comes more than once"),
        ("ident;text\n1;2\n", "missing_column", "no column 'id'.*separate them by commas"),
        ("", "missing_column", "The file is empty"),
        ("id,text\n1,x\0y\n", "not_utf8", ":2: the file holds NUL bytes"),
        ("id,text\n1,é\n".encode("latin-1"), "not_utf8", ":2: not UTF-8 .byte 0xe9"),
        ("id,text\n1,2\n".encode("utf-16"), "not_utf8", "UTF-16"),
        ("id,text\n1,x\n" + "\n" * 100_001, "bad_table", ":100003: more than 100,000 blank lines"),
        ("id,text\n1," + "x" * 200_000 + "\n", "bad_table", "more than 131,072 characters"),
    ],
)
def test_what_would_give_wrong_cells_is_an_error(write, content, kind, says):
    path = write(content)
    with pytest.raises(DataError, match=says) as caught:
        rows(path, "id")
    assert caught.value.kind == kind
    assert str(caught.value).startswith(str(path))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        'id,text\n1,"Clear"',  # a quote that closes the last cell
        "id,text\n1,Lungs are clear.",  # a sentence that ends
        "id,text,view\n1,Clear,PA\n2,Clear,LL\n3,Clear,PA",  # said before
        "id,text,\n1,Clear,\n2,Clear,\n",  # a comma at the end of each line
        "id,text,\n1,Clear\n",
        "id,text\n\n1,Clear\n  \n",
        'id,text\nr1,"Findings: clear.\nImpression, normal."\n',
        'id,text\n1,"Nodule of\n4, maybe 5 mm."\n2,x\n',
    ],
)
def test_whole_tables_of_other_habits_are_read(write, content):
    assert rows(write(content), "id", "text")[0]["id"] in ("1", "r1")


@pytest.mark.parametrize("size", [9, 30, -1, -9])
def test_a_gzip_that_is_cut_or_changed_is_an_error(write, size):
    generator = random.Random(1)
    lines = "".join(f"{i},{generator.random()}\n" for i in range(300))
    whole = gzip.compress(("a,b\n" + lines).encode())
    with pytest.raises(DataError, match="copy it again") as caught:
        rows(write(whole[:size], "t.csv.gz"))
    assert caught.value.kind == "bad_table"
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 0xFF
    with pytest.raises(DataError):
        rows(write(bytes(changed), "t.csv.gz"))
    with pytest.raises(DataError, match="Not a gzipped file"):
        rows(write("a,b\n1,2\n", "t.csv.gz"))


def test_absent_files_and_names_that_no_file_has(tmp_path):
    for path in (tmp_path / "no.csv", tmp_path, tmp_path / ("x" * 400), tmp_path / "a\0b"):
        with pytest.raises(DataError) as caught:
            rows(path)
        assert caught.value.kind == "missing_table"


def test_the_caller_names_the_error_class(write):
    with pytest.raises(MetricError):
        list(read_table(write("a\n"), ("b",), error=MetricError))


def test_damaged_parquet_is_refused_or_read_but_nothing_else_is_raised(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(50)], "x": [1.5] * 50}), path)
    whole = path.read_bytes()
    generator = random.Random(3)
    refused = 0
    for round_ in range(120):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if round_ % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            list(read_parquet(path))
        except DataError as error:
            assert error.kind == "bad_file" and error.remedy
            refused += 1
    assert refused > 60


def test_mutated_tables_raise_nothing_of_a_library(write):
    text = (
        'image,study_id,findings,label\n"a.png",s1,"Clear, no ""mass"".\nEnd.",1\nb.png,s2,No.,0\n'
    )
    generator = random.Random(5)
    for name in ("t.csv", "t.csv.gz"):
        content = text.encode()
        for _ in range(300):
            damaged = bytearray(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(damaged))
                piece = generator.choice(
                    [b'"', b"\0", b"\xff", b",", b"\n", b"\r", b"", b"\xfe\xff"]
                )
                damaged[place : place + generator.randint(0, 3)] = piece
            with contextlib.suppress(DataError):
                rows(write(bytes(damaged), name), "image")


@pytest.mark.parametrize("name", ["t.tsv", "t.csv.gz"])
def test_a_row_is_read_by_the_byte_at_which_it_begins(write, name):
    text = '\ufeffid\tnote\tlast\n\na\t"two\nlines; ä"\tno\nb\tthree\tno\rc\t\tno\r\nd\tnone\tno'
    packed = gzip.compress(text.replace("\t", ",").encode())
    path = write(packed if name.endswith("gz") else text, name)
    whole = list(read_table(path))
    assert [row["id"] for row in whole] == list("abcd")
    for row in reversed(whole):
        assert dict(read_row(path, row.offset)) == dict(row)
    with pytest.raises(DataError, match="byte 1000"):
        read_row(path, 1000)
    with pytest.raises(DataError, match="missing"):
        read_row(path.with_name("none.tsv"), 0)

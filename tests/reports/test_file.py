"""Files of reports: resumed, owned, merged; nothing is mixed or lost silently."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from llava_rad.data import Study, StudyImage
from llava_rad.errors import ConfigError, DataError
from llava_rad.reports.file import ReportFile, Shard, is_report_file, merge_shards
from llava_rad.reports.report import Report
from llava_rad.reports.shown import changes, shown_of


def study(name, folder, **texts):
    path = folder / f"{name}.png"
    if not path.exists():
        Image.new("L", (8, 8), len(name)).save(path)
    return Study(name, name, images=(StudyImage(str(path), "frontal"),), **texts)


def report(name, text="Clear lungs."):
    return Report(text, "tiny", 3, False, False, study_id=name)


def as_text(made):
    return f"== {made.study_id}\n{made.findings}\n\n[tiny] For research."


def write(path, studies, *, run="r", stop=None, style=None, **options):
    """Write reports of studies; gives the ids that were written now."""
    now = []
    with ReportFile(path, run, studies=studies, as_text=style, **options) as file:
        for each in [s for s in studies if s.study_id not in file.done][:stop]:
            file.write(report(each.study_id), shown_of(each))
            now.append(each.study_id)
    return now


@pytest.mark.parametrize("style", [None, as_text])
@pytest.mark.parametrize("cut", [0, 25])
def test_both_formats_go_on_where_they_stopped(tmp_path, style, cut):
    studies = [study(f"s{i}", tmp_path) for i in range(4)]
    once, twice = tmp_path / "once", tmp_path / "twice"
    write(once, studies, style=style)
    write(twice, studies, style=style, stop=3)
    content = twice.read_bytes()
    if cut:
        twice.write_bytes(content[:-cut])  # a power cut in the middle of the third
    assert write(twice, studies, style=style) == (["s2", "s3"] if cut else ["s3"])
    assert twice.read_bytes() == once.read_bytes()
    assert is_report_file(once)


def test_a_study_that_changed_is_named_with_both_values(tmp_path):
    path = tmp_path / "out.jsonl"
    before = study("s", tmp_path, indication="Cough", technique="PA " * 40)
    write(path, [before])
    kept = path.read_bytes()
    after = study("s", tmp_path, indication="Fever", technique="AP " * 40)
    with pytest.raises(DataError) as caught:
        write(path, [after])
    assert caught.value.kind == "other_study"
    assert 'study s: indication: "Cough" in the file, "Fever" now; technique: "119 char' in str(
        caught.value
    )
    assert path.read_bytes() == kept
    assert write(path, [after], overwrite=True) == ["s"]


def test_a_replaced_image_is_seen_and_a_copied_one_is_the_same(tmp_path):
    one = study("s", tmp_path)
    image = tmp_path / "s.png"
    before = shown_of(one)
    content = image.read_bytes()
    os.utime(image, (1, 1))
    assert changes(before, one) == []
    Image.new("L", (8, 8), 200).save(image)
    assert len(image.read_bytes()) == len(content)
    assert changes(before, one) == [f"{image}: the picture was replaced"]
    image.write_bytes(content + b"\0")
    assert changes(before, one) == [
        f"{image}: {len(content)} bytes in the file, {len(content) + 1} now"
    ]
    image.unlink()
    assert changes(before, one) == [f"{image}: cannot be read now"]


def test_another_run_is_named_by_what_differs(tmp_path):
    path = tmp_path / "out.jsonl"
    write(path, [study("s", tmp_path)], made_with={"model": "a", "seed": 1})
    with pytest.raises(DataError, match=r"\(model: a in the file, b now; seed: 1 in the file, def"):
        write(path, [study("s", tmp_path)], run="q", made_with={"model": "b"})


@pytest.mark.parametrize(
    "content",
    ["my notes\n", '{"a": 1}', '{"a": 1}\n', "== Title\nmy notes\n", "-- signature\n", "\n\nx\n"],
)
def test_strangers_files_are_told(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        write(path, [study("s", tmp_path)])
    assert caught.value.kind == "foreign_output"
    assert path.read_text() == content


@pytest.mark.parametrize("style", [None, as_text])
def test_notes_below_reports_are_not_cut_away(tmp_path, style):
    path = tmp_path / "file"
    write(path, [study("s", tmp_path)], style=style)
    with path.open("a") as file:
        file.write("my notes\nwhich matter")
    before = path.read_bytes()
    with pytest.raises(DataError):
        write(path, [study("s", tmp_path)], style=style)
    assert path.read_bytes() == before


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_deleted_meanwhile_is_an_error(tmp_path, replaced):
    path = tmp_path / "out.jsonl"
    refused = pytest.raises(DataError, match="deleted or replaced")
    with refused as caught, ReportFile(path, "r") as file:
        file.write(report("a"))
        path.unlink()
        if replaced:
            path.write_text("another")
        file.write(report("b"))
    assert caught.value.kind == "output_gone"
    # after the last report too
    refused = pytest.raises(DataError, match="deleted or replaced")
    with refused, ReportFile(tmp_path / "last", "r") as file:
        file.write(report("a"))
        (tmp_path / "last").unlink()


def test_a_full_device_is_one_error():
    with pytest.raises(DataError, match="No space left"), ReportFile("/dev/full", "r") as file:
        file.write(report("a"))


def test_a_second_run_is_refused_with_its_process(tmp_path):
    path = tmp_path / "out.jsonl"
    other = (
        "import sys; from llava_rad.reports.file import ReportFile\n"
        "file = ReportFile(sys.argv[1], 'r'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=rf"process {process.pid} on ") as caught:
            ReportFile(path, "r")
        assert caught.value.kind == "in_use"
        process.kill()
        process.wait()
        # The lock dies with its holder.
        write(path, [study("s", tmp_path)])
    assert [entry.name for entry in tmp_path.iterdir() if "lock" in entry.name] == []


def shards(folder, studies, of=3, *, skip=(), run="r", failed=(), style=None):
    output = folder / "out.jsonl"
    for number in range(1, of + 1):
        shard = Shard(number, of)
        if number in skip:
            continue
        with ReportFile(shard.file(output), run, studies=studies, as_text=style) as file:
            own = shard.share(studies)
            for each in own:
                if each.study_id not in file.done and each.study_id not in failed:
                    file.write(report(each.study_id), shown_of(each))
            lost = [s.study_id for s in own if s.study_id in failed]
            file.finish_shard(shard, studies, lost)
    return output


@pytest.mark.parametrize("style", [None, as_text])
def test_shards_become_the_file_of_one_run(tmp_path, style):
    studies = [study(f"s{i}", tmp_path) for i in range(7)]
    once = tmp_path / "once"
    write(once, studies, style=style)
    output = shards(tmp_path, studies, style=style)
    shards(tmp_path, studies, style=style)  # run again: nothing changes
    assert merge_shards(output).reports == 7
    assert output.read_bytes() == once.read_bytes()
    assert write(output, studies, style=style) == []


def test_a_shard_without_studies_is_whole(tmp_path):
    output = shards(tmp_path, [study("s", tmp_path)])
    assert merge_shards(output).reports == 1


def test_failed_studies_are_named_and_tried_again(tmp_path):
    studies = [study(f"s{i}", tmp_path) for i in range(4)]
    output = shards(tmp_path, studies, failed=("s2",))
    assert merge_shards(output).failed == ("s2",)
    shards(tmp_path, studies)
    assert merge_shards(output).failed == ()


def test_incomplete_and_mixed_shards_are_refused_by_name(tmp_path):
    studies = [study(f"s{i}", tmp_path) for i in range(6)]
    output = shards(tmp_path, studies, skip=(2,))
    with pytest.raises(DataError, match=r"1 of 3 shards is missing: out\.jsonl\.2-of-3"):
        merge_shards(output)
    shards(tmp_path, studies)
    second = tmp_path / "out.jsonl.2-of-3"
    whole = second.read_bytes()
    second.write_bytes(whole[: whole.rindex(b"{")])  # killed before its end
    with pytest.raises(DataError, match=r"2-of-3: the shard has not been finished \(2 reports\)"):
        merge_shards(output)
    second.unlink()
    shards(tmp_path, studies, skip=(1, 3), run="q")
    with pytest.raises(DataError, match=r"2-of-3: its model or settings are not those of .*1-of-3"):
        merge_shards(output)
    second.unlink()
    shards(tmp_path, [*studies, study("s9", tmp_path)], skip=(1, 3))
    with pytest.raises(DataError, match=r"2-of-3: its inputs are not those of"):
        merge_shards(output)
    second.write_bytes(whole)
    shards(tmp_path, studies, of=2)
    with pytest.raises(DataError, match=r"different runs \(2 of 2 and 3 of 3\)"):
        merge_shards(output)
    assert not output.exists()


def test_what_is_no_shard(tmp_path):
    for text in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError):
            Shard.parse(text)
    with pytest.raises(DataError, match="no shards"):
        merge_shards(tmp_path / "out.jsonl")


def test_lines_are_plain_json(tmp_path):
    path = tmp_path / "out.jsonl"
    write(path, [study("s", tmp_path, indication="Husten, älter")])
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["shown"]["indication"] == "Husten, älter"

"""Files that changed between stop and resume are noticed."""

import os

import pytest

from llava_rad.errors import TrainingError
from llava_rad.runs.inputs import check_inputs, remember_inputs


@pytest.fixture
def run(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(6)]
    for number, file in enumerate(files):
        file.write_bytes(b"%d" % number)
        os.utime(file, ns=(10**18 + number, 10**18 + number))
    remember_inputs(tmp_path, {"images": files})
    return tmp_path, files


def test_the_same_files_are_no_change(run):
    folder, files = run
    check_inputs(folder, {"images": [str(f) for f in files]})


def test_a_replaced_file_of_the_same_size_is_named(run):
    folder, files = run
    files[2].write_bytes(b"9")
    os.utime(files[2], ns=(10**17, 10**17))  # older than the run, as a copy that keeps times
    said = r"images \(6 then, 6 now; [^,]*2\.png is new or was replaced\)"
    with pytest.raises(TrainingError, match=said) as caught:
        check_inputs(folder, {"images": files})
    assert "delete inputs.json" in caught.value.remedy


def test_files_that_came_or_went_are_counted(run):
    folder, files = run
    with pytest.raises(TrainingError, match=r"6 then, 5 now"):
        check_inputs(folder, {"images": files[:-1]})
    files[0].unlink()
    with pytest.raises(TrainingError, match=r"0\.png is gone"):
        check_inputs(folder, {"images": files})
    with pytest.raises(TrainingError, match=r"others \(0 then, 1 now; .*1\.png is new"):
        check_inputs(folder, {"images": files, "others": files[1:2]})


def test_a_record_that_is_gone_is_written_anew_and_a_damaged_one_is_told(run):
    folder, files = run
    (folder / "inputs.json").unlink()
    check_inputs(folder, {"images": files[:2]})
    check_inputs(folder, {"images": files[:2]})
    content = bytearray((folder / "inputs.json").read_bytes())
    content[-9] ^= 1
    (folder / "inputs.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"inputs\.json: the record .* is damaged"):
        check_inputs(folder, {"images": files[:2]})

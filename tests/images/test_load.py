import io
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from llava_rad.errors import ImageError
from llava_rad.images import Radiograph, load_radiograph


def kind_of(source, **options):
    with pytest.raises(ImageError) as error:
        load_radiograph(source, **options)
    assert error.value.where
    assert error.value.remedy
    return error.value.kind


def test_paths_bytes_and_files_give_the_same(tmp_path, phantom, make_dicom):
    data = make_dicom(phantom)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    with path.open("rb") as file:
        radiographs = [
            load_radiograph(path),
            load_radiograph(str(path)),
            load_radiograph(data),
            load_radiograph(io.BytesIO(data)),
            load_radiograph(file),
        ]
    assert all(np.array_equal(r.pixels, radiographs[0].pixels) for r in radiographs)
    sources = [radiograph.source for radiograph in radiographs]
    assert sources == [str(path), str(path), "<bytes>", "<BytesIO>", str(path)]
    assert load_radiograph(data, name="upload 7").source == "upload 7"


def test_content_decides_and_not_the_name(tmp_path, phantom, make_dicom, make_file):
    path = tmp_path / "picture.png"
    path.write_bytes(make_dicom(phantom))
    assert load_radiograph(path).photometric["file_format"] == "DICOM"
    path = tmp_path / "picture.dcm"
    path.write_bytes(make_file(phantom, "PNG"))
    assert load_radiograph(path).photometric["file_format"] == "PNG"


def test_what_is_not_there_or_not_a_file(tmp_path):
    assert kind_of(tmp_path / "nothing.png") == "not_found"
    assert kind_of(tmp_path) == "not_a_file"
    assert kind_of(tmp_path / ("x" * 5000)) == "unreadable"
    assert kind_of("a\0b") == "unreadable"
    assert kind_of(None) == "unreadable"
    assert kind_of(io.StringIO("text")) == "unreadable"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert kind_of(tmp_path / "pipe") == "not_a_file"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "locked.png"
    path.write_bytes(b"x")
    path.chmod(0)
    assert kind_of(path) == "unreadable"


def test_a_file_that_fails_while_read():
    class Broken(io.RawIOBase):
        name = "disk.dcm"

        def read(self, size=-1):
            raise OSError("input/output error")

    with pytest.raises(ImageError, match=r"disk\.dcm.*input/output error") as error:
        load_radiograph(Broken())
    assert error.value.kind == "unreadable"


def test_content_that_is_no_picture(tmp_path):
    assert kind_of(b"") == "empty_file"
    assert kind_of(b"\x00", name="a.dcm") == "not_dicom"
    assert kind_of(b"some text, long enough for any header " * 20, name="a.txt") == "unknown_format"
    assert kind_of(bytes(range(256)) * 20, name="a.dcm") == "not_dicom"
    assert kind_of(b"%PDF-1.7" + bytes(500), name="a.pdf") == "unknown_format"


def test_a_file_over_the_limit(monkeypatch, phantom, make_dicom):
    monkeypatch.setattr("llava_rad.images.load.MAX_BYTES", 100)
    assert kind_of(make_dicom(phantom)) == "too_large"


def test_the_message_names_file_reason_and_remedy(tmp_path, phantom, make_file):
    path = tmp_path / "half.png"
    path.write_bytes(make_file(phantom, "PNG")[:300])
    with pytest.raises(ImageError) as error:
        load_radiograph(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "cut off" in message
    assert "again." in message


def test_facts_are_plain_json(phantom, make_dicom, make_file):
    for data in (make_dicom(phantom, PixelPaddingValue=200), make_file(phantom, "PNG")):
        for rendering in ("minmax", "voi"):
            facts = load_radiograph(data, rendering=rendering).photometric
            assert json.loads(json.dumps(facts)) == facts
            assert {"file_format", "bits_stored", "inverted", "voi", "value_range", "lossy"} <= (
                facts.keys()
            )


def test_a_radiograph_travels_between_processes(phantom, make_dicom):
    radiograph = load_radiograph(make_dicom(phantom))
    copy = pickle.loads(pickle.dumps(radiograph))
    assert isinstance(copy, Radiograph)
    assert np.array_equal(copy.pixels, radiograph.pixels)
    with pytest.raises(AttributeError):
        copy.view = "lateral"


def test_threads_do_not_disturb_each_other_or_the_warning_filters(phantom, make_dicom):
    # pydicom remarks on the invalid identifier.
    data = make_dicom(phantom).replace(
        b"1.2.826.0.1.3680043.8.498.1", b"not a valid identifier     "
    )
    before = list(warnings.filters)
    expected = load_radiograph(data).pixels
    results = []

    def work():
        results.extend(np.array_equal(load_radiograph(data).pixels, expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80
    assert list(warnings.filters) == before


def test_importing_is_light():
    code = "import sys, llava_rad.images; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"

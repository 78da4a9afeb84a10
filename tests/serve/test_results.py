"""Each study is reported once, across restarts, and nothing that is there is replaced."""

import contextlib
import json

import pytest
from helpers.report_documents import SECRETS, write_image
from PIL import Image

from llava_rad.errors import DataError
from llava_rad.serve import results as module
from llava_rad.serve.arrivals import Arrivals
from llava_rad.serve.results import own_state


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def restart(open_results, tmp_path):
    """Looks once at a folder, as a process that is started, reports and is stopped."""
    folder, output, said = tmp_path / "in", tmp_path / "out", []
    folder.mkdir()

    def run(*formats, **options):
        said.clear()
        with contextlib.ExitStack() as stack:
            results = open_results(stack, folder, output, *formats, said=said, **options)
            results.take(Arrivals(folder, 0).look())
            return results.written

    run.folder, run.output, run.said = folder, output, said
    return run


def test_a_study_is_reported_once_and_again_when_a_view_comes(restart):
    write_image(restart.folder, 1)
    assert restart("markdown", "fhir") == 1
    first = names(restart.output)
    assert [name.partition(".")[2] for name in first] == ["fhir.json", "md"]
    assert restart("markdown", "fhir") == 0 and restart.said == []
    write_image(restart.folder, 1, name="lat", view="LL")
    content = (restart.output / first[1]).read_bytes()
    assert restart("markdown", "fhir") == 1
    stem = first[1].removesuffix(".md")
    assert names(restart.output) == sorted([*first, f"{stem}-2.fhir.json", f"{stem}-2.md"])
    assert (restart.output / first[1]).read_bytes() == content


def test_nothing_that_is_said_or_named_leads_to_the_patient(restart):
    write_image(restart.folder, 1)
    restart("markdown", "fhir", "dicom-sr")
    journal = (restart.output / ".llava-rad" / "journal.jsonl").read_text()
    everything = " ".join([*restart.said, *names(restart.output), journal])
    for secret in (*SECRETS, "1.2.826"):
        assert secret not in everything


def test_names_are_the_hospitals_where_identifiers_are_kept(restart):
    write_image(restart.folder, 1)
    restart("fhir", keep=True)
    assert names(restart.output) == ["1.2.826.0.1.3680043.8.498.1.1.fhir.json"]


def test_a_strangers_file_stays_and_a_stopped_runs_file_is_replaced(restart, monkeypatch):
    write_image(restart.folder, 1)
    strange = restart.output / "1.2.826.0.1.3680043.8.498.1.1.fhir.json"
    strange.parent.mkdir()
    strange.write_text("not ours")
    write, wrote = module.write_bytes_result, []

    def stop(path, content):
        write(path, content)
        wrote.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_bytes_result", stop)
    with pytest.raises(KeyboardInterrupt):
        restart("fhir", keep=True)
    monkeypatch.setattr(module, "write_bytes_result", write)
    assert restart("fhir", keep=True) == 1
    assert strange.read_text() == "not ours"
    assert [path.name for path in wrote] == ["1.2.826.0.1.3680043.8.498.1.1-2.fhir.json"]
    assert len(names(restart.output)) == 2


def test_a_study_that_fails_is_told_once_and_tried_again_when_it_is_whole(restart):
    path = write_image(restart.folder, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:4000])
    write_image(restart.folder, 2)
    assert restart("markdown") == 1
    assert sum(line.startswith("error: ") for line in restart.said) == 1
    assert restart("markdown") == 0 and restart.said == []
    path.write_bytes(whole)
    assert restart("markdown") == 1
    assert len(names(restart.output)) == 2


def test_a_picture_without_dicom_has_all_documents_but_the_sr(restart):
    Image.effect_noise((64, 64), 90).save(restart.folder / "chest.png")
    assert restart("markdown", "dicom-sr") == 1
    [name] = names(restart.output)
    assert name.startswith("chest-") and name.endswith(".md")
    [error] = [line for line in restart.said if line.startswith("error: ")]
    assert "refers to DICOM images" in error


def test_documents_beside_the_images_are_no_new_studies(open_results, tmp_path):
    write_image(tmp_path / "sub", 1)
    for expected in (1, 0):
        with contextlib.ExitStack() as stack:
            results = open_results(stack, tmp_path, None, "dicom-sr", "json", keep=True)
            results.take(Arrivals(tmp_path, 0).look())
            assert results.written == expected
    assert len(names(tmp_path / "sub")) == 3
    report = next((tmp_path / "sub").glob("*.json"))
    assert json.loads(report.read_text())["model"] == "tiny-model"


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        own_state(tmp_path, keep_identifiers=False),
        pytest.raises(DataError, match="watch or listener"),
        own_state(tmp_path, keep_identifiers=False),
    ):
        pass

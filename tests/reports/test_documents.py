"""report --format markdown, pdf, fhir, dicom-sr: where documents go, what is refused, resuming."""

import json
import sys
from pathlib import Path

import pytest
from helpers.report_documents import write_image
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from llava_rad.cli import app
from llava_rad.data import expand_inputs
from llava_rad.errors import ConfigError
from llava_rad.reports.documents import Documents, document_stem

RUN = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(folder / "llm")
    made = build(tokenizer, llm=llm, llm_id=str(folder / "llm"), name="tiny-model")
    return str(made.save_pretrained(folder / "model"))


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for number in (1, 2):
        write_image(folder, number, StudyDate=f"2020030{number}")
    return folder


def run(model, *arguments):
    return RUN.invoke(
        app, ["report", "--model", model, "--max-new-tokens", "4", *map(str, arguments)]
    )


def documents(folder, ending):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def test_one_study_goes_into_a_file_that_is_never_replaced_unasked(model, scans, tmp_path):
    output = tmp_path / "out" / "one.dcm"
    one = (scans / "1_pa.dcm", "--format", "dicom-sr", "-o", output)
    assert run(model, *one).exit_code == 0
    before = output.read_bytes()
    assert dcmread(output).Modality == "SR"
    again = run(model, *one)
    assert again.exit_code == 1 and "the file is there" in again.stderr
    assert output.read_bytes() == before
    assert run(model, *one, "--overwrite", "--keep-identifiers").exit_code == 0
    assert dcmread(output).PatientID == "MRN-77"
    assert list(output.parent.iterdir()) == [output]


def test_several_studies_go_into_a_folder_and_a_stopped_run_resumes(model, scans, tmp_path):
    output = tmp_path / "out"
    first = run(model, scans / "1_pa.dcm", "--format", "fhir", "-o", output)
    assert first.exit_code == 0, first.stderr
    [name] = documents(output, ".fhir.json")
    content = (output / name).read_bytes()
    both = run(model, scans, "--format", "fhir", "-o", output)
    assert both.exit_code == 0, both.stderr
    assert len(documents(output, ".fhir.json")) == 2
    again = run(model, scans, "--format", "fhir", "-o", output)
    assert "2 of 2 are in" in again.stderr
    patients = {
        json.loads((output / name).read_bytes())["contained"][0]["identifier"][0]["value"]
        for name in documents(output, ".fhir.json")
    }
    assert len(patients) == 1  # the same patient in a later run too
    assert (output / name).read_bytes() == content
    key = Path(f"{output}.key")
    assert key.stat().st_mode & 0o077 == 0
    # A document that was deleted is written again.
    (output / name).unlink()
    assert "1 of 2 is in" in run(model, scans, "--format", "fhir", "-o", output).stderr
    assert (output / name).exists()


def test_a_folder_of_one_run_takes_no_other_settings(model, scans, tmp_path):
    output = tmp_path / "out"
    assert run(model, scans, "--format", "markdown", "-o", output).exit_code == 0
    other = run(model, scans, "--format", "markdown", "-o", output, "--max-new-tokens", 5)
    assert other.exit_code == 1 and "max_new_tokens: 4 in the file, 5 now" in other.stderr
    assert run(model, scans, "--format", "fhir", "-o", output).exit_code == 0  # beside them


def test_text_formats_are_printed_one_after_the_other(model, scans):
    result = run(model, scans, "--format", "fhir")
    assert [json.loads(line)["resourceType"] for line in result.stdout.splitlines()] == [
        "DiagnosticReport"
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "pdf"), "one file a study"),
        (("--format", "pdf", "-o", "x.pdf"), "there are 2 studies"),
        (("--format", "fhir", "-o", "out", "--shard", "1/2"), "one file a study"),
        (("--format", "pdf", "-o", "out", "--keep-identifiers"), "never name the patient"),
        (("--keep-identifiers",), "never name the patient"),
    ],
)
def test_wrong_usage_is_one_line(model, scans, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(model, scans, *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_nothing_binary_goes_to_a_terminal(scans, monkeypatch):
    studies = expand_inputs([scans / "1_pa.dcm"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(ConfigError, match=r"binary, nothing to print.*--output"):
        Documents("pdf", None, studies)
    Documents("markdown", None, studies)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    Documents("pdf", None, studies)


def test_a_picture_without_dicom_fails_and_the_others_are_written(model, scans, tmp_path):
    Image.effect_noise((64, 64), 90).save(scans / "3.png")
    output = tmp_path / "out"
    result = run(model, scans, "--format", "dicom-sr", "-o", output)
    assert result.exit_code == 1 and "1 of 3 failed" in result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "3.png" in error and "refers to DICOM images" in error
    assert len(documents(output, ".dcm")) == 2


def test_names_of_files_keep_studies_apart():
    assert document_stem("a/1.dcm") != document_stem("b/1.dcm")
    assert document_stem("a/1.dcm").startswith("1-")
    assert document_stem("1.2.840.5") .startswith("1.2.840.5-")  # fmt: skip
    assert "/" not in document_stem("../..") and document_stem("../..").startswith("study-")

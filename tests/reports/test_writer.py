"""Reports from Python: any kind of input, one way with the command line, a stream in order."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_files import UID, dicom_bytes, write_exam
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm
from PIL import Image
from typer.testing import CliRunner

import llava_rad
from llava_rad.cli import app
from llava_rad.errors import ConfigError, DataError, ImageError, ModelError
from llava_rad.model import PromptTemplate
from llava_rad.reports import Failure, GenerationSettings, Report, ReportWriter

SHORT = GenerationSettings(max_new_tokens=8)


def saved(folder, **template):
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(folder / "llm")
    made = build(
        tokenizer,
        llm=llm,
        llm_id=str(folder / "llm"),
        name="tiny-model",
        template=PromptTemplate.for_tokenizer(tokenizer, **template),
    )
    return str(made.save_pretrained(folder / "model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    lines = {"current_frontal": "Frontal: <image>"}
    return saved(tmp_path_factory.mktemp("frontal"), image_lines=lines)


@pytest.fixture(scope="module")
def model(folder):
    return llava_rad.load(folder, device="cpu")


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    lines = {"current_frontal": "Frontal: <image>", "current_lateral": "Lateral: <image>"}
    return saved(tmp_path_factory.mktemp("views"), image_lines=lines)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study of two views, a lateral view, four PNG files and one that is none."""
    write_exam(tmp_path / "exam", 1, patient=1)
    write_exam(tmp_path / "other", 2, patient=2)
    lateral = dicom_bytes(seed=5, StudyInstanceUID=f"{UID}7", ViewPosition="LL")
    (tmp_path / "lateral.dcm").write_bytes(lateral)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 60), dtype=np.uint8)
        pixels[0, :2] = 0, 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_text("this is not a picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command_line(*arguments):
    options = ["--format", "json", "--max-new-tokens", "8", "--device", "cpu"]
    result = CliRunner().invoke(app, ["report", *map(str, arguments), *options])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    for row in rows:
        del row["run"]
    return rows, [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def as_json(reports):
    return json.loads(json.dumps([report.to_dict() for report in reports]))


@pytest.mark.parametrize("which", ["folder", "two_views"])
@pytest.mark.parametrize("inputs", [["exam"], ["0.png"], ["exam", "3.png", "other", "1.png"]])
def test_it_is_the_command_lines_report(place, request, which, inputs):
    name = request.getfixturevalue(which)
    told, errors = command_line(*inputs, "--model", name, "--indication", "cough")
    assert told and not errors
    writer = llava_rad.load(name, device="cpu")
    found = list(writer.reports(inputs, indication="cough", settings=SHORT))
    assert as_json(found) == told
    if len(told) == 1:
        assert as_json([writer.report(inputs[0], indication="cough", settings=SHORT)]) == told


def test_a_lateral_film_is_no_frontal_one(place, model, folder, two_views):
    told, errors = command_line("lateral.dcm", "--model", folder)
    assert told == [] and len(errors) == 1
    with pytest.raises(ModelError, match="no frontal image") as failure:
        model.report("lateral.dcm")
    assert errors == [f"error: {failure.value}"]
    seen = llava_rad.load(two_views, device="cpu").report("exam", settings=SHORT)
    assert seen.roles == ("current_frontal", "current_lateral")
    assert model.report("exam", settings=SHORT).roles == ("current_frontal",)


def test_every_form_of_a_picture_gives_the_files_text(place, model):
    expected = model.report("1.png", settings=SHORT)
    content = Path("1.png").read_bytes()
    pixels = np.asarray(Image.open("1.png"))
    forms = {
        "path": Path("1.png"),
        "bytes": content,
        "file": io.BytesIO(content),
        "Pillow": Image.open("1.png"),
        "array": pixels,
        "radiograph": llava_rad.load_radiograph("1.png"),
        "list": ["1.png"],
        "study": llava_rad.Study("s", "p", images=(llava_rad.StudyImage("1.png"),)),
    }
    for name, form in forms.items():
        found = model.report(form, settings=SHORT)
        assert found.findings == expected.findings, name
        assert any(w.startswith("view_unknown") for w in found.warnings), name
    assert model.report("2.png", settings=SHORT).findings != expected.findings


def test_in_memory_pictures_have_names_that_come_once(place, model):
    pixels = np.asarray(Image.open("1.png"))
    reports = list(model.reports([pixels, Path("0.png").read_bytes(), pixels], settings=SHORT))
    ids = [report.study_id for report in reports]
    assert ids == ["<ndarray 1>", "<bytes 2>", "<ndarray 3>"]
    assert reports[0].images == ("<ndarray 1>",)


def test_the_view_of_bytes_is_read_from_them(place, model):
    with pytest.raises(ModelError, match="no frontal image"):
        model.report(Path("lateral.dcm").read_bytes())


def test_a_list_is_the_views_of_one_study(place, two_views):
    writer = llava_rad.load(two_views, device="cpu")
    frontal, lateral = "exam/1_pa.dcm", "exam/1_lat.dcm"
    expected = writer.report([lateral, frontal], settings=SHORT)
    assert expected.roles == ("current_frontal", "current_lateral")
    memory = [llava_rad.load_radiograph(lateral), Path(frontal).read_bytes()]
    for views in (memory, [frontal, memory[0]], [Path(lateral), memory[1]]):
        found = writer.report(views, settings=SHORT)
        assert (found.roles, found.findings) == (expected.roles, expected.findings)
    joined = writer.report(["0.png", "1.png"], settings=SHORT)
    assert joined.study_id == "0.png"
    assert any("1.png is a further unknown view" in w for w in joined.warnings)
    twice = writer.report([memory[0], replace(memory[0], view="frontal")], settings=SHORT)
    assert twice.roles == expected.roles and len(set(twice.images)) == 2


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (["exam/1_pa.dcm", "other/2_pa.dcm"], "different_studies"),
        (".", "several_studies"),
        ("nowhere.png", "no_input"),
        ([], "no_study"),
        (17, "no_study"),
        ([["0.png"]], "no_study"),
    ],
)
def test_what_is_no_single_study_is_said(place, model, given, kind):
    with pytest.raises(DataError) as failure:
        model.report(given)
    assert failure.value.kind == kind


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_stream_keeps_order_and_texts(place, model, workers, batch_size):
    paths = ["2.png", "exam", "0.png", "3.png", "1.png"]
    expected = [model.report(path, settings=SHORT) for path in paths]
    stream = model.reports(paths, settings=SHORT, workers=workers, batch_size=batch_size)
    assert list(stream) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_study_is_a_failure_in_its_place_or_ends_the_stream(place, model, workers):
    given = ["0.png", "bad.png", "gone.png", "1.png", 17, np.zeros((64, 64)), "2.png"]
    options = {"settings": SHORT, "workers": workers, "batch_size": 2}
    found = list(model.reports(given, errors="yield", **options))
    kinds = [r.error.kind if isinstance(r, Failure) else r.study_id for r in found]
    expected = ["0.png", "unknown_format", "no_input", "1.png", "no_study", "constant_image"]
    assert kinds == [*expected, "2.png"]
    assert [found[1].study_id, found[2].study_id] == ["bad.png", "gone.png"]
    stream = model.reports(given, **options)
    assert next(stream).study_id == "0.png"
    with pytest.raises(ImageError, match=re.escape("bad.png")):
        next(stream)


def test_wrong_policies_are_refused_before_anything_is_read(model):
    for options in ({"errors": "ignore"}, {"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ConfigError):
            model.reports(["nowhere.png"], **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_is_read_as_it_is_needed(place, model, workers):
    taken = []

    def pictures():
        for i in range(100):
            taken.append(i)
            yield np.asarray(Image.open(f"{i % 4}.png"))

    stream = model.reports(pictures(), settings=SHORT, workers=workers, batch_size=2)
    next(stream)
    assert len(taken) <= 5
    stream.close()
    assert len(taken) <= 5


def test_files_that_are_passed_over_are_logged(place, model, caplog):
    (place / "exam" / "notes.txt").write_text("notes")
    list(model.reports("exam", settings=SHORT))
    assert "notes.txt" in caplog.text and "passed over" in caplog.text


def test_a_model_in_memory_becomes_a_writer(place, model):
    made = build(byte_level_tokenizer())
    writer = ReportWriter.of(made)
    assert writer.report("0.png", settings=SHORT).model == made.config.name
    assert next(iter(writer.parameters())) is next(iter(made.parameters()))


def test_a_notebook_shows_pictures_text_and_warnings_and_runs_nothing(place, model):
    report = model.report("exam", settings=SHORT)
    (thumbnail,) = report.thumbnails
    with Image.open(io.BytesIO(thumbnail)) as shown:
        assert shown.format == "JPEG" and max(shown.size) <= 400
    attack = "<script>alert(1)</script>\"'&"
    hostile = replace(
        report,
        findings=attack,
        model=attack,
        images=(attack,),
        warnings=(f"kind: {attack}", "kind: a\nb"),
        truncated=True,
    )
    page = hostile._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") == 5
    assert "data:image/jpeg;base64," in page and "max_new_tokens" in page
    assert "not for clinical use" in page and "Shown as current frontal" in page
    assert "thumbnails" not in report.to_dict() and "thumbnails" not in repr(report)
    bare = Report("Clear.", "m", 1, False, False)._repr_html_()
    assert "Clear." in bare and "<img" not in bare


def test_print_writes_what_the_command_line_writes(place, model, folder):
    options = ["--model", folder, "--max-new-tokens", "8", "--device", "cpu"]
    told = CliRunner().invoke(app, ["report", "0.png", *options]).stdout
    assert f"{model.report('0.png', settings=SHORT)}\n" == told

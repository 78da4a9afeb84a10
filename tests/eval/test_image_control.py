"""eval/image_control.py on tiny models that see and that do not, and the wrong pictures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_rad.data import PriorStudy, Study, StudyImage, load_manifest, save_manifest
from llava_rad.evaluation import CONTROLS
from llava_rad.evaluation.controls import control_reader, partner_studies
from llava_rad.model import PromptTemplate, load
from llava_rad.model.configuration import ReportModelConfig
from llava_rad.model.encoder_heads import EncoderHeads
from llava_rad.model.report_model import load_own_encoder
from llava_rad.model.training_summary import CELLS, TrainingSummary
from llava_rad.reports.study import Failure, read_study

SHORT = ["--max-new-tokens", "12", "--metrics", "rouge,bleu_coco", "--resamples", "200"]
# Models without a summary of their training images have no copy that sees its mean.
PICTURES = [name for name in CONTROLS if name != "text_only"]
REPORTS = ["reports.jsonl", *(f"control_reports/{name}.jsonl" for name in PICTURES)]


@pytest.fixture
def control(run_program, manifest):
    def run(model, output, *more):
        return run_program(
            "image_control", "--model", model, "--manifest", manifest, "-o", output, *SHORT, *more
        )

    return run


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_blind_model_writes_the_same_and_gains_exactly_nothing(blind_model, control, tmp_path):
    done = control(blind_model, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    found = read(tmp_path / "out/image_control.json")
    assert found["depends_on_the_image"] is False and found["count"] == 11
    for outcome in found["controls"].values():
        assert outcome["identical_share"] == 1
        for gain in outcome["gains"].values():
            assert gain["gain"] == 0 and set(gain["interval"].values()) == {0}
            assert gain["above_0"] is False and gain["p"] == 1
    assert "does not depend on the image" in done.stdout.splitlines()[-1]
    assert "11 of 11 texts identical (100.0 %)" in done.stdout


def test_a_seeing_model_writes_other_texts_for_other_pictures(seeing_model, control, tmp_path):
    done = control(seeing_model, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "left out (no_findings: 1)" in done.stderr
    found = read(tmp_path / "out/image_control.json")
    for outcome in found["controls"].values():
        assert outcome["identical_share"] < 1
    rows = lines(tmp_path / "out/image_control.jsonl")
    assert len(rows) == 11
    for name, outcome in found["controls"].items():
        same = sum(row[name].split() == row["right"].split() for row in rows)
        assert same == outcome["identical_texts"]
    # Random weights know nothing of the findings, however much they look.
    assert found["depends_on_the_image"] is False
    assert "It is not shown" in done.stdout.splitlines()[-1]
    # The gain of a mean is the mean of the values' differences.
    gain = found["controls"]["noise"]["gains"]["rouge/rougeL"]
    assert gain["gain"] == pytest.approx(gain["right"] - gain["control"])


def test_a_copy_that_sees_the_mean_of_the_training_images(seeing_model, control, tmp_path):
    """A model that knows its training images is also compared with its text-only copy."""
    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    encoder = load_own_encoder(folder, ReportModelConfig.load(folder))
    torch.manual_seed(0)
    cells = torch.randn(10, CELLS**2, encoder.dim)
    EncoderHeads(summary=TrainingSummary.fit(cells)).save(folder, encoder.fingerprint())
    done = control(folder, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    texts = {r["findings"] for r in lines(tmp_path / "out/control_reports/text_only.jsonl")}
    contexts = {"Cough.", None, "Fall."}
    assert len(texts) <= len(contexts)  # nothing but the indication tells studies apart
    assert len({r["findings"] for r in lines(tmp_path / "out/reports.jsonl")}) > len(contexts)
    assert "gain over the mean of the training images" in (
        tmp_path / "out/image_control.md"
    ).read_text(encoding="utf-8")


def test_texts_that_follow_the_image_are_told(seeing_model, control, manifest, tmp_path):
    assert control(seeing_model, tmp_path / "first").exit_code == 0
    texts = {r["study_id"]: r["findings"] for r in lines(tmp_path / "first/reports.jsonl")}
    studies = [replace(s, findings=texts.get(s.study_id)) for s in load_manifest(manifest)]
    save_manifest(studies, manifest)

    # Random letters hold no observation, so what counts is declared to be their overlap.
    done = control(seeing_model, tmp_path / "out", "--primary", "rouge/rouge1")
    assert done.exit_code == 0, done.stderr
    found = read(tmp_path / "out/image_control.json")
    assert found["depends_on_the_image"] is True and found["primary"] == "rouge/rouge1"
    assert (found["intervals"]["unit"], found["intervals"]["units"]) == ("patient", 7)
    gain = found["controls"]["other_patient"]["gains"]["rouge/rouge1"]
    assert gain["role"] == "primary" and gain["p"] == gain["p_randomisation"] <= 0.05
    assert gain["right"] == 1 and gain["above_0"] and gain["interval"]["low"] > 0
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("The text depends on the image: ")
    card = (tmp_path / "out/image_control.md").read_text(encoding="utf-8")
    assert verdict in card and "11 studies (split test), `tiny-model`, float32" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| rouge | ROUGE-1 |")]
    assert f"{gain['gain']:+.4f} ({gain['interval']['low']:+.4f} to" in row
    assert str(tmp_path) not in card


def test_empty_reports_are_kept_scored_as_empty_and_not_written_again(
    seeing_model, manifest, tmp_path, monkeypatch
):
    from llava_rad.evaluation import split_reports

    split = split_reports.open_split(str(seeing_model), manifest, tmp_path / "out")
    processor = split.model.processor
    decode = processor.decode
    monkeypatch.setattr(processor, "decode", lambda ids, ends: "")
    written = split.write("reports.jsonl")
    assert written.empty == 11 == len(written.texts) and not written.failures
    assert "11 of 11 reports are empty, and scored as such" in split.notes(written)
    assert split.facts(written)["empty"] == 11
    split.write_predictions(tmp_path / "out/predictions.jsonl", written)
    assert {row["prediction"] for row in lines(tmp_path / "out/predictions.jsonl")} == {""}
    monkeypatch.setattr(processor, "decode", decode)
    assert split.write("reports.jsonl").texts == written.texts


def test_a_run_that_was_cut_off_goes_on(seeing_model, control, tmp_path):
    out = tmp_path / "out"
    assert control(seeing_model, out).exit_code == 0
    names = [*REPORTS, "image_control.json", "image_control.jsonl", "image_control.md"]
    whole = {name: (out / name).read_bytes() for name in names}
    # Killed in the middle of a line, in the middle of a batch.
    noise = out / "control_reports/noise.jsonl"
    noise.write_bytes(b"".join(whole["control_reports/noise.jsonl"].splitlines(True)[:9])[:-30])
    for name in ("control_reports/blank.jsonl", "image_control.json"):
        (out / name).unlink()
    assert control(seeing_model, out).exit_code == 0
    assert {name: (out / name).read_bytes() for name in names} == whole

    other = control(seeing_model, out, "--seed", 1)
    assert other.exit_code == 1 and "other settings" in other.stderr


def test_a_picture_that_cannot_be_read_leaves_its_studies_out(seeing_model, control, studies,
                                                              tmp_path):  # fmt: skip
    out = tmp_path / "out"
    Path(studies[3].images[0].path).write_bytes(b"not a picture")
    done = control(seeing_model, out)
    assert done.exit_code == 1
    assert "2 of 11 studies failed" in done.stderr and "3.png" in done.stderr
    rows = lines(out / "image_control.jsonl")
    left = [row["id"] for row in rows]
    assert len(rows) == 9 and "s3" not in left
    assert read(out / "image_control.json")["generation"]["not_compared"] == 2


def test_one_patient_is_not_enough(seeing_model, control, studies, manifest, tmp_path):
    save_manifest([replace(studies[i], patient_id="p") for i in range(3)], manifest)
    done = control(seeing_model, tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: all studies are of one patient")


def test_wrong_pictures_keep_roles_and_context(seeing_model, tmp_path):
    studies = []
    for i in range(6):
        for name in ("f", "l", "p"):
            pixels = np.full((60, 60), 10 * i + "flp".index(name), np.uint8)
            pixels[0, 0] = 255  # the rendering stretches grays to 0..255
            pixels[0, 1] = 0
            Image.fromarray(pixels).save(tmp_path / f"{i}{name}.png")
        lateral = [StudyImage(str(tmp_path / f"{i}l.png"), "lateral")] if i % 2 else []
        frontal = StudyImage(str(tmp_path / f"{i}f.png"), "frontal")
        prior = PriorStudy("p", (StudyImage(str(tmp_path / f"{i}p.png"), "frontal"),), "Clear.")
        studies.append(
            Study(f"s{i}", f"p{i}", images=(frontal, *lateral), prior=prior, indication="Cough.")
        )
    model = load(str(seeing_model))
    template = model.processor.template
    partners = partner_studies(studies, template)
    own = read_study(model, studies[1])
    roles = ["current_frontal", "current_lateral", "prior_frontal"]
    assert [image.role for image in own.request.images] == roles
    partner = read_study(model, partners["s1"])
    for control in PICTURES:
        reader = control_reader(control, studies, template)
        wrong = reader(model, studies[1])
        assert [image.role for image in wrong.request.images] == roles
        for name in ("indication", "technique", "comparison", "prior_report"):
            assert getattr(wrong.request, name) == getattr(own.request, name)
        pixels = model.processor.pixel_values([wrong.request])
        assert pixels.equal(model.processor.pixel_values([reader(model, studies[1]).request]))
        if control == "other_patient":
            assert pixels.equal(model.processor.pixel_values([partner.request]))
            assert [image.path for image in wrong.images] == [i.path for i in partner.images]
        preprocessing = model.processor.preprocessing
        gray = (pixels * preprocessing.std[0] + preprocessing.mean[0]) * 255
        if control == "noise":
            assert gray.mean() == pytest.approx(127.5, abs=5)
            assert gray.std() == pytest.approx(73.9, abs=4)  # of even draws from 0 to 255
            assert not pixels[0].equal(pixels[1])
        if control == "blank":
            assert gray.abs().max() < 1e-3


def test_partners_are_other_patients_with_the_same_views_where_there_are_some():
    frontal, lateral = StudyImage("f", "frontal"), StudyImage("l", "lateral")
    studies = [
        Study(f"s{i}", f"p{i // 2}", images=(frontal, lateral) if i % 3 else (frontal,))
        for i in range(20)
    ]
    partners = partner_studies(studies, PromptTemplate())
    for study in studies:
        partner = partners[study.study_id]
        assert partner.patient_id != study.patient_id
        assert len(partner.images) == len(study.images)
    assert len({p.study_id for p in partners.values()}) > 15
    assert partners == partner_studies(studies, PromptTemplate())
    assert partners != partner_studies(studies, PromptTemplate(), seed=1)
    # A single study with both views has to take one without.
    alone = [replace(s, images=(frontal,)) for s in studies[:-1]] + [studies[-1]]
    assert partner_studies(alone, PromptTemplate())["s19"].patient_id != "p9"


def test_a_missing_role_takes_the_partners_frontal_picture(seeing_model, tmp_path):
    for name in ("a", "b", "c"):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (60, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    images = {n: str(tmp_path / f"{n}.png") for n in "abc"}
    both = (StudyImage(images["a"], "frontal"), StudyImage(images["b"], "lateral"))
    first = Study("1", "p1", images=both)
    second = Study("2", "p2", images=(StudyImage(images["c"], "frontal"),))
    model = load(str(seeing_model))
    reader = control_reader("other_patient", [first, second], model.processor.template)
    wrong = reader(model, first)
    assert [i.radiograph.source for i in wrong.request.images] == [images["c"]] * 2
    (tmp_path / "c.png").unlink()
    failed = reader(model, first)
    assert isinstance(failed, Failure) and failed.study_id == "1"

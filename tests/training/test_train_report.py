"""The training program as users start it: both stages, kills, changed settings, bad inputs."""

import random
import re
import time
from dataclasses import replace

import pytest
import torch
from helpers.program_runs import start_program
from helpers.training_runs import PROGRAM, metrics
from safetensors.torch import load_file

from llava_rad.data import StudyImage, load_manifest, save_manifest
from llava_rad.model import PLAIN, PromptTemplate, ReportModel
from llava_rad.model.prompt import IMAGE
from llava_rad.runs import find_checkpoints


def weights(folder):
    """All trained tensors of a finished run."""
    return {
        f"{stage}/{file}": tensor
        for stage, files in (
            ("align", ["adapter.safetensors"]),
            ("finetune", ["adapter.safetensors", "lora/adapter_model.safetensors"]),
        )
        for name in files
        for file, tensor in load_file(folder / stage / name).items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-6), name


@pytest.fixture(scope="module")
def whole(train_in, tmp_path_factory):
    """A run that nothing disturbed."""
    return train_in(tmp_path_factory.mktemp("whole"), "run")


def test_both_stages_learn_and_leave_models_that_read_back(whole, parts):
    folder, said = whole
    rows = metrics(folder)
    for stage in ("align", "finetune"):
        of_stage = [row for row in rows if row["stage"] == stage]
        losses = [row["loss"] for row in of_stage if "loss" in row]
        validation = [row["validation_loss"] for row in of_stage if "validation_loss" in row]
        assert len(losses) == 9  # 18 studies, 2 epochs, batches of 4
        assert sum(losses[-3:]) < sum(losses[:3])
        assert validation[-1] < validation[0]
        assert all(0 <= row["padding"] < 0.5 for row in of_stage if "padding" in row)
        model = ReportModel.from_pretrained(folder / stage)
        assert model.config.llm_weights == ("base" if stage == "align" else "lora")
        facts = model.config.training
        assert facts["validation_loss"] == validation[-1]
        assert list(facts["manifests"]) == ["studies.jsonl"]
        assert str(parts) not in str(facts)
    assert "processes         1 on cpu, fp32" in said
    assert "18 to learn from, 5 to validate on" in said
    assert (folder / "loss.png").stat().st_size > 1000
    assert list((folder / "trackers").rglob("events.out*"))


def test_alignment_leaves_the_llm_and_finetuning_changes_the_adapter_too(whole):
    tensors = weights(whole[0])
    assert not (whole[0] / "align" / "lora").exists()
    lora = [t for name, t in tensors.items() if "lora_B" in name]
    assert lora
    assert all(t.abs().max() > 0 for t in lora)
    aligned, tuned = (tensors[f"{s}/layers.0.weight"] for s in ("align", "finetune"))
    assert not torch.equal(aligned, tuned)


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_weights(whole, train, settings, tmp_path):
    draws = random.Random(0)
    total = len(metrics(whole[0]))
    for target in sorted(draws.sample(range(total), 10)):
        folder = tmp_path / "killed"
        (process,) = start_program(
            PROGRAM,
            [str(tmp_path / "empty.yaml"), f"output={folder}", *settings],
            tmp_path / "log",
        )
        while process.is_alive() and len(metrics(folder)) < target:
            time.sleep(0.002)
        process.join(draws.uniform(0, 0.5))
        process.kill()
        process.join()
    said = train("killed")[1]
    assert "resuming" in said or "was done before" in said
    assert_same(weights(folder), weights(whole[0]))
    names = ("stage", "step", "loss", "validation_loss")
    assert [[r.get(n) for n in names] for r in metrics(folder)] == [
        [r.get(n) for n in names] for r in metrics(whole[0])
    ]


def test_a_finished_run_started_again_does_nothing_new(whole, train_in):
    before = weights(whole[0])
    rows = metrics(whole[0])
    train_in(whole[0].parent, "run")
    assert_same(weights(whole[0]), before)
    assert [r["step"] for r in metrics(whole[0])] == [r["step"] for r in rows]


def test_changed_settings_are_refused_and_free_ones_are_not(train):
    stage = ["stage=align", "align.epochs=0.2"]
    folder, _ = train("run", *stage)
    said = train("run", *stage, "seed=1", fails=True)[1]
    assert re.search(r"error: .*seed: 0 in the run, 1 now\. Resume with the settings", said)
    said = train("run", *stage, "resume=never", fails=True)[1]
    assert "holds checkpoints of an earlier run" in said
    said = train("run", *stage, "log_steps=5")[1]
    assert "resuming" in said
    assert "Traceback" not in said
    assert len(find_checkpoints(folder / "checkpoints")) == 1


def test_a_resumed_run_keeps_its_prompt(train, parts):
    stage = ["stage=align", "align.epochs=0.2"]
    train("prompted", *stage)
    file = parts / "llm" / "chat_template.jinja"
    published = file.read_text()
    file.write_text(published.replace("<|im_start|>assistant", "<|im_start|>model"))
    try:
        said = train("prompted", *stage, fails=True)[1]
    finally:
        file.write_text(published)
    assert re.search(r"error: .*rendered prompt\.align\.\S+ .*model.* now\b", said, re.DOTALL), said


def test_cached_and_uncached_runs_learn_the_same(train):
    """Up to the rounding of the cache to bfloat16."""
    stage = ["stage=align", "align.epochs=1"]
    cached = metrics(train("cached", *stage)[0])
    other = metrics(train("uncached", *stage, "data.cache_features=false", "data.workers=2")[0])
    for one, two in zip(cached, other, strict=True):
        for name in {"loss", "validation_loss"} & one.keys():
            assert one[name] == pytest.approx(two[name], rel=2e-3)


def test_a_missing_image_and_an_infinite_loss_are_one_message_each(train, parts, tmp_path):
    studies = load_manifest(parts / "studies.jsonl")
    kept = studies[5].images[0].path
    path = tmp_path / "images" / "gone.png"
    changed = [
        replace(study, images=(StudyImage(str(path), "frontal"),))
        if study.study_id == "s5"
        else study
        for study in studies
    ]
    save_manifest(changed, tmp_path / "changed.jsonl")
    source = f"data.sources=[{{path: {tmp_path / 'changed.jsonl'}}}]"
    for more in ([], ["data.cache_features=false"]):
        said = train("missing", source, "stage=align", *more, fails=True)[1]
        # All are listed before anything is learnt.
        assert re.search(r"cannot be read +study s5: .*gone\.png: there is no such file", said), (
            said
        )
        assert re.search(r"error: 1 of \d+ images cannot be read: .*gone\.png\. .*leave_out", said)
        assert "Traceback" not in said
    assert kept

    folder, said = train("diverged", "stage=align", "align.lr=1e18", "align.clip=1e18", fails=True)
    message = r"error: step \d+, studies s\d+.*: the (loss|gradient) is (nan|inf)"
    assert re.search(message, said), said
    checkpoints = find_checkpoints(folder / "checkpoints")
    assert checkpoints
    for checkpoint in checkpoints:
        found = checkpoint.tensors("weights")
        assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_more_processes_than_were_started_is_an_error(train):
    said = train("run", "processes=2", fails=True)[1]
    assert "error: processes: the run is meant for 2 processes, 1 started" in said
    assert "torchrun --nproc_per_node 2" in said


def test_an_unknown_key_stops_before_anything_is_loaded(train):
    folder, said = train("run", "align.learning_rat=1", fails=True)
    assert "unknown key 'align.learning_rat'" in said
    assert not folder.exists()


def test_sample_reports_are_a_page_with_images_and_scores(train):
    folder, _ = train("run", "stage=align", "sample_steps=5", "sample_count=2")
    (page,) = (folder / "samples").iterdir()
    text = page.read_text()
    assert page.name == "align-0000005.html"
    assert "<h1>align, step 5</h1>" in text and "<dt>BLEU-4 (COCO)</dt>" in text
    assert text.count("<h3>Generated</h3>") == text.count("<h3>True</h3>") == 2
    assert text.count('src="data:image/jpeg;base64,') >= 2
    assert text.count('alt="Radiograph 1 of') == 2
    (row,) = [row for row in metrics(folder) if "sample/bleu_coco/bleu_4" in row]
    assert row["step"] == 5
    assert 0 <= row["sample/rouge/rougeL"] <= 1


def test_samples_do_not_change_what_is_learnt(whole, train):
    folder, _ = train("run", "stage=align", "sample_steps=2", "sample_count=1")
    losses = [row["loss"] for row in metrics(folder) if "loss" in row]
    assert losses == [r["loss"] for r in metrics(whole[0]) if "loss" in r and r["stage"] == "align"]


def test_a_run_starts_from_a_trained_model_and_its_lora(whole, train, tmp_path):
    start = f"start={whole[0] / 'finetune'}"
    folder, _ = train("more", "stage=finetune", "finetune.epochs=0.2", start)
    first = next(row for row in metrics(folder) if "validation_loss" in row)
    last = [row for row in metrics(whole[0]) if "validation_loss" in row][-1]
    assert first["validation_loss"] == pytest.approx(last["validation_loss"], abs=1e-6)

    said = train("other", "stage=finetune", "lora.r=2", start, fails=True)[1]
    assert "trained part of the LLM is not that of this run (LoRA of rank 4 and alpha 8" in said
    said = train("other", "stage=align", start, fails=True)[1]
    assert "instead of no LoRA" in said
    said = train("other", "adapter.pool=1", f"start={whole[0] / 'align'}", fails=True)[1]
    assert "its adapter is not that of this run" in said


def test_augmented_runs_learn_from_changed_images(whole, train):
    plain = ["stage=align", "align.epochs=1", "data.cache_features=false"]
    augmented = train("one", *plain, "data.augment=true")[0]
    again = train("two", *plain, "data.augment=true")[0]
    unchanged = train("three", *plain)[0]

    def losses(folder):
        return [row["loss"] for row in metrics(folder) if "loss" in row]

    assert losses(augmented) == losses(again)
    assert losses(augmented) != losses(unchanged)


@pytest.mark.slow
def test_alignment_in_the_plain_layout_learns_the_report_after_the_image(train):
    stage = "{epochs: 2, lr: 3e-3, batch_size: 4, micro_batch: 2, prompt: plain}"
    folder, _ = train("plain", "stage=align", f"align={stage}")
    roles = ("current_frontal", "current_lateral", "prior_frontal")
    plain = PromptTemplate(**{**PLAIN, "image_lines": dict.fromkeys(roles, IMAGE)})
    assert ReportModel.from_pretrained(folder / "align").processor.template == plain
    losses = [row["loss"] for row in metrics(folder) if "loss" in row]
    assert sum(losses[-3:]) < sum(losses[:3])

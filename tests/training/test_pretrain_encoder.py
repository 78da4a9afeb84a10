"""The pretraining program, run whole on tiny images and a tiny vision transformer."""

import shutil
import socket
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from helpers.pretraining_runs import (
    PROGRAM,
    assert_equal,
    checkpoint,
    encoder_weights,
    load_program,
    losses,
    make_start,
    metrics,
    tiny_config,
)
from helpers.program_runs import run_program, start_program
from helpers.waiting import PATIENCE
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from llava_rad.config import save_config
from llava_rad.data import Study, StudyImage, save_manifest
from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.errors import ConfigError, DataError, TrainingError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums come out the same here and in the processes started from here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def program():
    return load_program()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_start(tmp_path_factory.mktemp("pretraining"))


@pytest.fixture(scope="module")
def finished(program, start):
    program.main(tiny_config(start, start / "finished"))
    return start / "finished"


@pytest.fixture
def run(program, start, tmp_path):
    """Runs the program with changed settings and returns the run's folder."""

    def run(name="run", **changes):
        program.main(tiny_config(start, tmp_path / name, **changes))
        return tmp_path / name

    return run


SHORT = {"schedule__epochs": 1, "schedule__warmup_epochs": 0}


def test_writes_an_encoder_that_both_libraries_load(finished):
    encoder = load_encoder(finished / "encoder")
    plain = AutoModel.from_pretrained(finished / "encoder").eval()
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        output = plain(pixels).last_hidden_state
        torch.testing.assert_close(encoder.encode(pixels).patches, output[:, 1:])
    assert plain.config.drop_path_rate == 0
    assert encoder.image_size == 28
    assert "| images in training | 12 |" in (finished / "encoder" / "README.md").read_text()


def test_writes_the_training_sets_own_statistics(finished, start):
    preprocessing = Preprocessing.read(finished / "encoder")
    pixels = np.stack(
        [
            np.asarray(Image.open(path).resize((56, 48), Image.Resampling.BICUBIC))
            for path in sorted((start / "images").iterdir())
        ]
    )
    assert preprocessing.mean[0] == pytest.approx(pixels.mean() / 255, abs=0.02)
    assert preprocessing.std[0] == pytest.approx(pixels.std() / 255, abs=0.02)


def test_teacher_moved_and_metrics_are_logged_and_drawn(finished, start):
    before, after = load_file(start / "tiny" / "model.safetensors"), encoder_weights(finished)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    rows = metrics(finished)
    assert losses(finished)[:, 0].tolist() == list(range(1, 13))
    assert {"dino", "ibot", "koleo", "lr", "epoch"} <= rows[0].keys()
    # Signs of collapse, from the first step on and at each.
    signs = [row for row in rows if {"divergence", "entropy", "spread"} <= row.keys()]
    assert [row["step"] for row in signs] == list(range(1, 13))
    watched = [row for row in rows if "effective_rank" in row]
    assert [(row["step"], row["epoch"]) for row in watched] == [(3, 1), (6, 2), (9, 3), (12, 4)]
    assert Image.open(finished / "curves.png").size[0] > 500


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_result(finished, start, tmp_path):
    # The first checkpoint after step 1 is in the middle of an epoch.
    settings = tiny_config(start, tmp_path / "killed", checkpoint_steps=5)
    save_config(settings, tmp_path / "config.yaml")
    arguments = [str(tmp_path / "config.yaml")]
    (process,) = start_program(PROGRAM, arguments, tmp_path / "log")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "killed" / "checkpoints" / "pretrain-0000005").exists():
        assert process.is_alive(), (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "encoder").exists()
    succeeded, said = run_program(PROGRAM, arguments, tmp_path / "log")
    assert succeeded, said
    assert "resuming          at step" in said
    assert_equal(encoder_weights(tmp_path / "killed"), encoder_weights(finished))
    assert metrics(tmp_path / "killed") == metrics(finished)


def test_resuming_with_other_settings_is_refused(finished, program, start, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "run" / "checkpoints")
    program.main(tiny_config(start, tmp_path / "run", log_steps=5))  # decides nothing
    assert_equal(encoder_weights(tmp_path / "run"), encoder_weights(finished))
    with pytest.raises(TrainingError, match=r"optimiser\.base_lr: 0\.004 in the run, 0\.001 now"):
        program.main(tiny_config(start, tmp_path / "run", optimiser__base_lr=1e-3))


def test_accumulated_passes_are_one_step_of_the_whole_batch(run):
    """Where the losses are means over images, and the centre moves once per step."""
    plain = {
        **SHORT,
        "loss__koleo_weight": 0.0,
        "loss__ibot_weight": 0.0,
        "loss__targets": "centring",
        "backbone__drop_path": 0.0,
    }
    whole = run("whole", **plain)
    parts = run("parts", **plain, optimiser__batch_size=2, optimiser__accumulate=2)
    torch.testing.assert_close(losses(parts), losses(whole), atol=1e-5, rtol=1e-5)
    assert_equal(checkpoint(whole, 3), checkpoint(parts, 3), tolerance=1e-5)
    assert checkpoint(whole, 3)["dino_centring.centre"].abs().max() > 1e-3


def test_high_resolution_phase_changes_the_crops_and_the_encoders_size(program, run, monkeypatch):
    seen = []
    forward = program.StudentTeacher.forward

    def watched(self, global_crops, local_crops, *rest):
        seen.append((*global_crops.shape, *local_crops.shape))
        return forward(self, global_crops, local_crops, *rest)

    monkeypatch.setattr(program.StudentTeacher, "forward", watched)
    high = {"epochs": 1, "global_size": 42, "local_size": 28, "batch_size": 2, "accumulate": 2}
    output = run(high_resolution=high, schedule__epochs=2)
    assert seen[:3] == [(8, 1, 28, 28, 8, 1, 14, 14)] * 3
    assert seen[3:] == [(4, 1, 42, 42, 4, 1, 28, 28)] * 6
    encoder = load_encoder(output / "encoder")
    assert encoder.image_size == 42
    assert encoder.num_tokens == 9


@pytest.mark.slow
def test_run_resumed_at_the_high_resolution_phase_is_exact(program, start, run, tmp_path):
    settings = {
        "high_resolution": {"epochs": 1, "global_size": 42, "local_size": 14, "batch_size": 4},
        "schedule__epochs": 2,
        "checkpoint_steps": 1,
        "keep_checkpoints": 9,
    }
    whole = run("whole", **settings)
    for step in (2, 3, 5):
        folder = tmp_path / f"from{step}"
        name = f"pretrain-{step:07d}"
        shutil.copytree(whole / "checkpoints" / name, folder / "checkpoints" / name)
        program.main(tiny_config(start, folder, **settings))
        assert_equal(encoder_weights(folder), encoder_weights(whole))


def test_a_step_reads_nothing_back_from_the_device(program, start, tmp_path, monkeypatch):
    """The meta device has no values: whatever asks for one fails. Its layers are a GPU's."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    config = tiny_config(start, tmp_path, backbone__drop_path=0.3, kernels="plain")
    accelerator = Accelerator(cpu=True)
    model, _ = program.build_model(config, accelerator)
    images = program.open_source(config.data.sources[0], config)
    batches = program.CropBatches(
        [images],
        program.DrawOrder([len(images)], [1.0], 0),
        program.MultiCrop(config.crops, config.crops.global_size, config.crops.local_size),
        config.loss,
        14,
        4,
        0,
        1,
        0,
    )
    meta = torch.device("meta")
    model.to(meta).train()
    groups = program.parameter_groups(model.student, 2, 1.0, 1.0)
    optimiser = torch.optim.AdamW(groups)
    schedules = program.Schedules(config.schedule, 1e-3, 1e-6, 3)
    figures = program.train_step(
        config,
        model,
        optimiser,
        None,
        [program.normalised(batches[0].to(meta), 0.5, 0.25)],
        schedules.at(0),
        program.Phase(config, schedules, 0),
        program.EpochWatch(config.head.prototypes, 24, meta),
        accelerator,
    )
    assert {"total loss", "dino loss", "divergence", "entropy", "spread", "gradient"} <= set(
        figures
    )
    assert {value.device.type for value in figures.values()} == {"meta"}


def test_registers_are_trained_and_exported(run, tmp_path):
    torch.manual_seed(0)
    backbone = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=28,
            patch_size=14,
            num_register_tokens=3,
            layerscale_value=0.5,
        )
    )
    backbone.save_pretrained(tmp_path / "registers")
    Preprocessing(image_size=28, mean=(0.5,) * 3, std=(0.25,) * 3).write(tmp_path / "registers")
    output = run(backbone__encoder=str(tmp_path / "registers"), **SHORT)
    encoder = load_encoder(output / "encoder")
    assert encoder.num_registers == 3
    assert encoder.encode(torch.randn(1, 3, 28, 28)).patches.shape == (1, 4, 24)
    student = checkpoint(output, 3)["student.backbone.embeddings.register_tokens"]
    assert not torch.equal(student, backbone.embeddings.register_tokens)


@pytest.mark.parametrize("left_out", ["dino", "ibot", "koleo"])
def test_each_loss_may_be_left_out(run, left_out):
    output = run(**{f"loss__{left_out}_weight": 0.0}, **SHORT)
    assert (output / "encoder" / "model.safetensors").exists()


class TestHeads:
    def test_centring_and_a_separate_patch_head(self, run):
        output = run(
            loss__targets="centring",
            ibot_head={"prototypes": 12, "hidden_dim": 16, "bottleneck_dim": 8},
            precision="bf16",
            crops__local_count=0,
            **SHORT,
        )
        heads = load_file(output / "encoder" / "ibot_head.safetensors")
        assert heads["last_layer.weight_v"].shape == (12, 8)

    def test_of_an_earlier_run_are_gone_on_from(self, run, finished, capsys):
        output = run(heads=str(finished / "encoder"), optimiser__base_lr=1e-12, **SHORT)
        before = load_file(finished / "encoder" / "dino_head.safetensors")
        assert f"dino_head from {finished / 'encoder'}\n" in capsys.readouterr().out
        for side in ("student", "teacher"):
            state = checkpoint(output, 3)
            head = {k: state[f"{side}.dino_head.{k}"] for k in before}
            # The cosine ends at a rate of 1e-6, not at 0.
            assert_equal(before, head, tolerance=1e-5)

    def test_train_alone_for_the_stated_time(self, run, start, capsys):
        output = run(
            schedule__epochs=2,
            schedule__heads_only_epochs=1,
            schedule__warmup_epochs=0,
            schedule__freeze_last_layer_epochs=0,
            checkpoint_steps=1,
            keep_checkpoints=9,
        )
        assert "dino_head new, only the heads train for 1 epochs" in capsys.readouterr().out
        states = [checkpoint(output, step) for step in (1, 3, 4)]

        def moved(part, first, last):
            return any(
                not torch.equal(states[first][name], states[last][name])
                for name in states[0]
                if name.startswith(f"student.{part}.")
            )

        assert moved("dino_head", 0, 1)
        assert not moved("backbone", 0, 1)
        assert moved("backbone", 1, 2)

    def test_new_ones_under_a_trained_backbone_are_warned_of(self, run, capsys):
        run(**SHORT)
        assert "WARNING: new heads pull a trained backbone" in capsys.readouterr().out


def test_teacher_in_the_repositorys_layout_is_a_start_for_a_new_run(run):
    first = run("first", backbone__encoder=None, backbone__architecture="vit_tiny", **SHORT)
    teacher = str(first / "teacher_checkpoint.pth")
    second = run(
        "second",
        backbone__encoder=teacher,
        heads=teacher,
        checkpoint_steps=1,
        keep_checkpoints=9,
        **SHORT,
    )
    before, after = checkpoint(first, 3), checkpoint(second, 1)
    # The rate of the first step is that of the end of the warm-up of no steps; the teacher moves
    # by less than a hundredth of it.
    for name in before:
        if name.startswith("teacher."):
            torch.testing.assert_close(after[name], before[name], atol=1e-4, rtol=0, msg=name)


def test_probe_is_taken_before_during_and_after(program, start, tmp_path, finished):
    paths = sorted((start / "images").iterdir())
    studies = [
        Study(
            study_id=path.stem,
            patient_id=path.stem,
            split="validation" if number >= 8 else "train",
            images=(StudyImage(str(path)),),
            labels={"Edema": float(number % 3 == 0)},
            sex="MF"[number % 2],
            age=30.0 + number,
        )
        for number, path in enumerate(paths)
    ]
    save_manifest(studies, tmp_path / "labels.jsonl")
    probe = {
        "manifest": str(tmp_path / "labels.jsonl"),
        "targets": ["Edema", "sex", "age"],
        "every_epochs": 2,
    }
    program.main(tiny_config(start, tmp_path / "run", probe=probe))
    scores = [row for row in metrics(tmp_path / "run") if "probe sex AUROC" in row]
    assert [row["step"] for row in scores] == [0, 6, 12]
    assert all(0 <= row["probe Edema AUROC"] <= 1 and row["probe age error"] > 0 for row in scores)
    assert scores[0]["probe age error"] != scores[2]["probe age error"]
    # Looking changes nothing.
    assert_equal(encoder_weights(tmp_path / "run"), encoder_weights(finished))


class TestRefusals:
    def test_batch_larger_than_the_set(self, run):
        with pytest.raises(TrainingError, match="larger than the training set of 12"):
            run(optimiser__batch_size=16)

    def test_crops_that_do_not_divide_into_the_encoders_patches(self, run):
        with pytest.raises(ConfigError, match=r"crop of 30 pixels.*Use 28 or 42"):
            run(crops__global_size=30)

    @pytest.mark.parametrize("cache_size", [48, None])
    def test_unreadable_images_are_all_listed_before_the_first_step(
        self, run, start, tmp_path, cache_size, capsys
    ):
        images = shutil.copytree(start / "images", tmp_path / "images")
        for name in ("03.png", "07.png"):
            (images / name).write_bytes((images / name).read_bytes()[:99])
        (images / "notes.txt").write_text("not a picture")
        changes = {
            "data__sources": [{"path": str(images)}],
            "data__cache_size": cache_size,
            "data__cache_folder": str(tmp_path / "cache"),
            **SHORT,
        }
        with pytest.raises(DataError, match=r"2 of 12 images.*03\.png.*07\.png.*leave_out"):
            run(**changes)
        said = capsys.readouterr().out
        assert "passed over, companion: 1" in said
        assert said.count("cannot be read    ") == 2
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        run(**changes, data__unreadable="leave_out")
        said = capsys.readouterr().out
        assert "left out          2 of 12 images cannot be read" in said
        assert "images            10 a pass" in said

    def test_no_images(self, run):
        with pytest.raises(TrainingError, match="no images to learn from"):
            run(data__sources=[])


# 12 images, the DINO loss alone; each test takes away one of the safeguards that are left.
COLLAPSING = {
    "stop_when_collapsed": True,
    "backbone__drop_path": 0.0,
    "loss__koleo_weight": 0.0,
    "loss__ibot_weight": 0.0,
    "optimiser__batch_size": 8,
    "optimiser__scaling": "none",
    "optimiser__base_lr": 2e-3,
    "schedule__epoch_steps": 10,
    "schedule__epochs": 6,
    "schedule__momentum": [0.9, 0.9],
    "schedule__freeze_last_layer_epochs": 0,
    "log_steps": 100,
    "checkpoint_steps": 100,
}


class TestCollapse:
    """Made to happen."""

    def test_without_sharpening_all_images_become_the_same(self, run):
        with pytest.raises(TrainingError, match="the teacher has collapsed") as caught:
            run(**COLLAPSING, schedule__teacher_temperature=[1.0, 1.0])
        assert "likes all prototypes the same" in str(caught.value)
        assert "schedule.teacher_temperature" in str(caught.value)

    def test_without_centring_one_prototype_takes_all(self, run):
        with pytest.raises(TrainingError, match="the teacher has collapsed") as caught:
            run(
                **COLLAPSING,
                loss__targets="centring",
                loss__centre_momentum=1 - 1e-9,
                schedule__teacher_temperature=[0.02, 0.02],
            )
        assert "every image the same prototype" in str(caught.value)
        assert "loss.targets=sinkhorn" in str(caught.value)

    def test_with_both_and_koleo_it_does_not_happen(self, run):
        output = run(
            **{**COLLAPSING, "loss__koleo_weight": 0.1},
            schedule__teacher_temperature=[0.04, 0.04],
        )
        last = [row for row in metrics(output) if "feature_spread" in row][-1]
        assert last["feature_spread"] > 0.5


COLLECTIVES = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all"),
    *(
        "barrier",
        "broadcast",
        "broadcast_object_list",
        "gather",
        "gather_object",
        "monitored_barrier",
    ),
    *("reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list"),
)


@pytest.fixture(params=["no group", "a group of one"])
def without_collectives(request, monkeypatch):
    """A process alone, started by hand or by a launcher; whoever asks the others is an error."""

    def refuse(*_, **__):
        pytest.fail("a collective operation, or DDP, in a single process")

    PartialState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)
    if request.param == "a group of one":
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
        for name, value in {**values, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        Accelerator(cpu=True)
    assert dist.is_initialized() == (request.param == "a group of one")
    for name in COLLECTIVES:
        monkeypatch.setattr(dist, name, refuse)
    monkeypatch.setattr(torch.nn.parallel.DistributedDataParallel, "__init__", refuse)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("targets", ["sinkhorn", "centring"])
def test_one_process_asks_no_others(without_collectives, run, finished, targets):
    output = run(loss__targets=targets)
    assert losses(output)[:, 0].tolist() == list(range(1, 13))
    if targets == "sinkhorn":
        assert_equal(encoder_weights(output), encoder_weights(finished))


def test_float16_finds_its_scale_learns_and_is_resumed_with_it(program, run, tmp_path):
    settings = {"precision": "fp16", "schedule__epochs": 8, "checkpoint_steps": 16}
    whole = run(**settings)
    rows = [row for row in metrics(whole) if "scale" in row]
    scales = [row["scale"] for row in rows]
    # Halved at every step that overflows, none of which is the last.
    skipped = int(rows[-1]["skipped"])
    assert 0 < skipped < 16
    assert scales == [2.0 ** (16 - min(step, skipped)) for step in range(24)]
    assert rows[-1]["total"] < rows[0]["total"]
    tensors = [*checkpoint(whole, 24).values(), *encoder_weights(whole).values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}

    resumed = tmp_path / "resumed"
    name = "checkpoints/pretrain-0000016"
    shutil.copytree(whole / name, resumed / name)
    shutil.copy(whole / "metrics.jsonl", resumed)
    run("resumed", **settings)
    assert metrics(resumed) == metrics(whole)
    assert_equal(encoder_weights(resumed), encoder_weights(whole))


@pytest.mark.parametrize("log_steps", [1, 100])
def test_run_that_is_not_finite_stops_and_says_so(run, log_steps):
    """At the latest with its epoch, before anything else looks at the numbers."""
    with pytest.raises(TrainingError, match=r"loss is (nan|inf)") as caught:
        run(
            log_steps=log_steps,
            optimiser__base_lr=1e18,
            optimiser__clip=None,
            schedule__warmup_epochs=0,
            schedule__freeze_last_layer_epochs=0,
        )
    assert "base_lr" in str(caught.value)

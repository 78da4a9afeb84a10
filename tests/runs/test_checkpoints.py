"""Checkpoints: complete or not there, damaged ones known, refused where they belong to others."""

import json
import shutil
import threading
import weakref

import pytest
import torch
from helpers.disks import full_at, small_disk
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava_rad.errors import TrainingError
from llava_rad.processes import process_state
from llava_rad.report_training.state import (
    optimiser_tensors,
    restore_optimiser,
    restore_weights,
    trained_tensors,
)
from llava_rad.runs import CheckpointWriter, checkpoints, find_checkpoints
from llava_rad.runs.checkpoints import find_resumable, resume_hint
from llava_rad.runs.checks import check_changed, sums_of
from llava_rad.runs.parts import write_parts

FACTS = {"settings": {"seed": 0, "data": {"max_length": 9}}, "manifests": {"a.jsonl": "1"}}


FILE = "shard-00001-model-00001-of-00001.safetensors"


def write(folder, stage, step, groups, facts=FACTS, keep=2, **options):
    with CheckpointWriter(folder, process_state(), keep=keep, **options) as writer:
        writer.save(stage, step, groups, facts)
    return find_checkpoints(folder)[-1]


def save(folder, step, stage="align", **tensors):
    weights = {"w": torch.full((2,), float(step))} | tensors
    groups = {"weights": weights, "optimiser": {"w|step": torch.ones(())}}
    return write(folder, stage, step, groups)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def resumable(folder, settings=FACTS["settings"], manifests=FACTS["manifests"], **options):
    return find_resumable(folder, settings, manifests, process_state(), **options)


def test_the_last_ones_are_kept_in_the_order_of_the_run(tmp_path):
    for step in (1, 20, 100):
        save(tmp_path, step)
    save(tmp_path, 1, "finetune")
    assert [(c.stage, c.step) for c in find_checkpoints(tmp_path)] == [
        ("align", 100),
        ("finetune", 1),
    ]
    assert names(tmp_path) == ["align-0000100", "finetune-0000001"]
    assert resumable(tmp_path).stage == "finetune"
    assert resume_hint(tmp_path) == "the same command resumes at finetune step 1"
    assert "starts from the beginning" in resume_hint(tmp_path / "none")


def test_a_full_disk_at_any_write_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 1)
    for number in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            calls = full_at(patch, number)
            try:
                save(tmp_path, 2)
            except TrainingError as error:
                assert "the checkpoint of step 2 cannot be written" in str(error)
                assert "No space left on device" in str(error)
                there = find_checkpoints(tmp_path)[-1]  # after the last one the new one is there
                there.check()
                assert str(error).endswith(f"the same command resumes at align step {there.step}.")
            else:
                break
        assert {name[:6] for name in names(tmp_path)} == {"align-"}
    assert len(calls) < number  # it was never reached: every write was tried
    assert number > 6
    assert names(tmp_path) == ["align-0000001", "align-0000002"]


def test_a_really_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 200_000) as disk:
        save(disk / "checkpoints", 1)
        with pytest.raises(TrainingError, match=r"No space left.*resumes at align step 1"):
            save(disk / "checkpoints", 2, large=torch.zeros(100_000))
        assert names(disk / "checkpoints") == ["align-0000001"]
        resumable(disk / "checkpoints").check()


def test_a_run_folder_that_has_gone_is_not_made_anew(tmp_path):
    with pytest.raises(TrainingError, match="No such file"):
        save(tmp_path / "gone" / "checkpoints", 1)


def test_numbers_that_are_not_finite_are_never_saved(tmp_path):
    save(tmp_path, 1)
    for value in (torch.nan, torch.inf):
        with pytest.raises(TrainingError, match="step 2: weights/bad is not finite"):
            save(tmp_path, 2, bad=torch.tensor([0.0, value]))
    assert names(tmp_path) == ["align-0000001"]


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a bit of a tensor": lambda c: flip(c / FILE, -1),
    "a bit of a header": lambda c: flip(c / FILE, 40),
    "a bit of the state": lambda c: flip(c / "state.json", -9),
    "cut": lambda c: (c / FILE).write_bytes(b"{}"),
    "empty": lambda c: (c / "state.json").write_text(""),
    "tensors gone": lambda c: (c / FILE).unlink(),
    "state gone": lambda c: (c / "state.json").unlink(),
    "another's tensors": lambda c: shutil.copy(c.parent / "align-0000001" / FILE, c / FILE),
    "another's state": lambda c: shutil.copy(
        c.parent / "align-0000001/state.json", c / "state.json"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_is_told_of_and_the_one_before_is_taken(tmp_path, damage):
    save(tmp_path, 1)
    DAMAGES[damage](save(tmp_path, 2).path)
    told = []
    found = resumable(tmp_path, say=told.append)
    assert found.step == 1
    assert found.tensors("weights")["w"].tolist() == [1.0, 1.0]
    assert len(told) == 1
    assert told[0].startswith("WARNING: align-0000002 is damaged (")
    assert told[0].endswith("; it is kept as align-0000002.damaged")
    assert names(tmp_path) == ["align-0000001", "align-0000002.damaged"]
    assert resumable(tmp_path, say=told.append).step == 1
    assert len(told) == 1


def test_where_all_are_damaged_nothing_is_begun_or_lost(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step).path / FILE, -1)
    with pytest.raises(TrainingError, match=r"no checkpoint of the run can be read: align-0000002"):
        resumable(tmp_path)
    assert names(tmp_path) == ["align-0000001", "align-0000002"]


def test_other_settings_or_studies_are_refused_by_name_and_value(tmp_path):
    assert resumable(tmp_path) is None
    save(tmp_path, 1)
    assert resumable(tmp_path).step == 1
    changed = {"seed": 1, "data": {"max_length": 8}}
    with pytest.raises(TrainingError) as caught:
        resumable(tmp_path, changed, {"a.jsonl": "2", "b.jsonl": "3"})
    for part in (
        "seed: 0 in the run, 1 now",
        "data.max_length: 9 in the run, 8 now",
        "a.jsonl: another content than in the run",
        "b.jsonl: not in the run",
    ):
        assert part in str(caught.value)
    with pytest.raises(TrainingError, match="checkpoints of an earlier run"):
        resumable(tmp_path, allowed=False)


def test_optimiser_and_weights_go_on_exactly(tmp_path):
    def network():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        model[0].bias.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        return model, torch.optim.AdamW(trained, lr=0.1)

    def steps(model, optimiser, numbers):
        for number in numbers:
            optimiser.zero_grad()
            model(torch.full((2, 3), float(number))).square().sum().backward()
            optimiser.step()

    whole, optimiser = network()
    steps(whole, optimiser, range(6))
    half, optimiser = network()
    steps(half, optimiser, range(3))
    groups = {"weights": trained_tensors(half), "optimiser": optimiser_tensors(half, optimiser)}
    saved = write(tmp_path, "align", 3, groups)
    resumed, optimiser = network()
    restore_weights(resumed, saved.tensors("weights"))
    restore_optimiser(resumed, optimiser, saved.tensors("optimiser"))
    steps(resumed, optimiser, range(3, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name

    other = nn.Linear(3, 2)
    with pytest.raises(TrainingError, match="another model"):
        restore_weights(other, saved.tensors("weights"))


@pytest.fixture
def slow_disk(monkeypatch):
    """An event that a background write waits for."""
    free = threading.Event()

    def slowly(parts, file):
        assert free.wait(60)
        return write_parts(parts, file)

    monkeypatch.setattr(checkpoints, "write_parts", slowly)
    yield free
    free.set()


def test_in_the_background_training_goes_on_and_the_values_are_those_of_the_save(
    tmp_path, slow_disk
):
    weight = torch.ones(3)
    with CheckpointWriter(tmp_path, process_state(), keep=2, background=True) as writer:
        writer.save("align", 1, {"weights": {"w": weight}}, FACTS)
        weight += 1  # the next step
        writer.settle(wait=False)
        assert find_checkpoints(tmp_path) == []
        slow_disk.set()
        writer.settle()
        assert find_checkpoints(tmp_path)[0].tensors("weights")["w"].tolist() == [1, 1, 1]
        writer.save("align", 2, {"weights": {"w": weight}}, FACTS)
    assert find_checkpoints(tmp_path)[1].tensors("weights")["w"].tolist() == [2, 2, 2]
    resumable(tmp_path).check()


def test_what_fails_in_the_background_is_told_at_the_next_call(tmp_path):
    save(tmp_path, 1)
    broken = {"weights": {"w": torch.tensor([torch.nan])}}
    with (
        pytest.raises(TrainingError, match="step 2: weights/w is not finite"),
        CheckpointWriter(tmp_path, process_state(), keep=2, background=True) as writer,
    ):
        writer.save("align", 2, broken, FACTS)
        writer.settle()
    assert names(tmp_path) == ["align-0000001"]


def test_a_run_that_fails_leaves_no_half_checkpoint(tmp_path, slow_disk):
    slow_disk.set()
    with (
        pytest.raises(KeyError),
        CheckpointWriter(tmp_path, process_state(), keep=2, background=True) as writer,
    ):
        writer.save("align", 1, {"weights": {"w": torch.ones(2)}}, FACTS)
        raise KeyError
    assert names(tmp_path) == []


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made and not yet freed."""

    def __init__(self, known):
        super().__init__()
        self.storages = {tensor.untyped_storage()._cdata for tensor in known}
        self.held = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.storages:
                    self.held += storage.nbytes()
                    self.most = max(self.most, self.held)
                    weakref.finalize(tensor, self.free, storage.nbytes())
        return result

    def free(self, size):
        self.held -= size


@pytest.mark.parametrize("background", [False, True])
def test_no_second_copy_is_alive_while_a_checkpoint_is_written(tmp_path, background):
    """In the background there is one, as is said."""
    tensors = {f"{n}": torch.full((250_000,), float(n)) for n in range(10)}
    one = 250_000 * 4
    with Alive(tensors.values()) as alive:
        write(tmp_path, "align", 1, {"weights": tensors}, background=background)
    if background:
        assert 10 * one <= alive.most <= 12 * one
    else:
        assert 0 < alive.most <= 2 * one  # what tells whether a tensor is finite


def test_facts_are_given_back(tmp_path):
    assert save(tmp_path, 1).facts() == json.loads(json.dumps(FACTS))


def test_a_model_that_did_not_change_is_refused():
    parameter = nn.Parameter(torch.tensor([1.0, -1.0]))
    before = sums_of([parameter])
    with pytest.raises(TrainingError, match="changed no weight"):
        check_changed(before, sums_of([parameter]))
    parameter.data[1] = -2.0
    check_changed(before, sums_of([parameter]))

"""What processes write of split tensors, and what others read of it, split otherwise."""

import json
import pickle
import weakref

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from helpers.processes import in_processes
from safetensors import safe_open
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from llava_rad.runs.parts import Gathered, SavedTensors, part_of, write_parts
from llava_rad.tensor_files import check_tensors

# Seven rows do not divide by two or three; one row is in one process only.
WHOLE = {
    "rows": torch.arange(21.0).reshape(7, 3),
    "one": torch.tensor([[5.0, 6.0]]),
    "half": torch.arange(8, dtype=torch.bfloat16).reshape(4, 2),
    "same": torch.arange(4.0),
    "count": torch.tensor(3.0),
}
SPLIT = ("rows", "one", "half")


def write(folder, axis=0):
    """Of each process: its own parts."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    tensors = dict(WHOLE)
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for name in SPLIT:
            tensors[name] = distribute_tensor(WHOLE[name], mesh, [Shard(axis)])
    parts = {name: part_of(tensor, rank == 0) for name, tensor in tensors.items()}
    return write_parts(parts, folder / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors")


def write_replicas(folder):
    """Two by two processes: halves, each held by two."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "part"))
    split = distribute_tensor(WHOLE["rows"], mesh, [Replicate(), Shard(0)])
    part = part_of(split, dist.get_rank() == 0)
    return write_parts({"rows": part}, folder / f"{dist.get_rank()}.safetensors")


def read_split(folder, axis):
    """Read as this number of processes splits it; give back the whole."""
    saved = SavedTensors(sorted(folder.glob("*.safetensors")))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = {}
    for name in SPLIT:
        target = distribute_tensor(torch.full_like(WHOLE[name], -1.0), mesh, [Shard(axis)])
        saved.read_into(name, target)
        found[name] = target.full_tensor()
    return found


@pytest.fixture(scope="module", params=[1, 2, 3])
def folder(request, tmp_path_factory):
    """Written by so many processes."""
    folder = tmp_path_factory.mktemp(f"by{request.param}")
    if request.param == 1:
        write(folder)
    else:
        in_processes(request.param, write, folder)
    return folder


def test_one_process_reads_what_any_number_wrote(folder):
    saved = SavedTensors(sorted(folder.glob("*.safetensors")))
    assert set(saved) == WHOLE.keys()
    for name, tensor in WHOLE.items():
        assert torch.equal(saved[name], tensor), name
        assert saved[name].dtype == tensor.dtype == saved.dtype(name)
        assert saved.shape(name) == tensor.shape


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1])
def test_two_processes_read_what_any_number_wrote(folder, axis):
    for found in in_processes(2, read_split, folder, axis):
        for name in SPLIT:
            assert torch.equal(found[name], WHOLE[name]), name


def test_torchs_own_reader_reads_it_too(folder):
    found = {name: torch.full_like(tensor, -1.0) for name, tensor in WHOLE.items()}
    dcp.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    for name, tensor in WHOLE.items():
        assert torch.equal(found[name], tensor), name


def test_each_part_is_written_once_where_several_hold_it(tmp_path):
    seals = in_processes(4, write_replicas, tmp_path)
    assert [bool(seal) for seal in seals] == [True, True, False, False]
    assert torch.equal(SavedTensors(sorted(tmp_path.iterdir()))["rows"], WHOLE["rows"])


def test_what_is_gathered_is_held_one_at_a_time_and_gathered_to_the_end(tmp_path):
    """The other processes wait for each: none may be left out where this disk refuses."""
    held, most, asked = set(), 0, []

    def gather(number):
        nonlocal most
        asked.append(number)
        tensor = torch.full((100,), float(number) if number != 3 else torch.nan)
        held.add(number)
        weakref.finalize(tensor, held.discard, number)
        most = max(most, len(held))
        return tensor

    def parts(numbers):
        return {
            str(n): part_of(Gathered([100], torch.float32, lambda n=n: gather(n)), True)
            for n in numbers
        }

    seal = write_parts(parts([0, 1, 2]), tmp_path / "a.safetensors")
    check_tensors(tmp_path / "a.safetensors", seal=seal)
    assert (most, len(held)) == (1, 0)
    asked.clear()
    with pytest.raises(ValueError, match="3 is not finite"):
        write_parts(parts(range(6)), tmp_path / "b.safetensors")
    assert asked == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "b.safetensors").exists()


def test_a_part_that_no_file_holds_is_noticed(tmp_path):
    in_processes(2, write, tmp_path)
    first, _ = sorted(tmp_path.iterdir())
    saved = SavedTensors([first])
    with pytest.raises(ValueError, match="a part of rows is in no file"):
        saved.read_into("rows", torch.empty(7, 3))


def test_the_header_is_that_of_torchs_writer(tmp_path):
    write(tmp_path)
    (file,) = tmp_path.iterdir()
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    assert about["DCP_VERSION"] == "1.0"
    offsets = json.loads(about["DCP_SHARDING_INFO"])
    assert offsets["rows"] == {"saved_offsets": [0, 0]}
    assert offsets.keys() == WHOLE.keys()


class Touched:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_nothing_of_a_file_is_unpickled(tmp_path):
    folder, mark = tmp_path / "saved", tmp_path / "mark"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Touched(mark)))
    write(folder)
    assert set(SavedTensors(sorted(folder.glob("*.safetensors")))) == WHOLE.keys()
    assert not mark.exists()

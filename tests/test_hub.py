"""Of the hub only those files are fetched that are read."""

import fnmatch
import json
from pathlib import Path

import huggingface_hub
import pytest
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm

from llava_rad.errors import WeightsError
from llava_rad.hub import download, download_file
from llava_rad.model import LoraSettings, ReportModel, load_llm, load_tokenizer
from llava_rad.model.loading import model_folder


class Hub:
    """A hub of one repository; fetching copies what matches, as the real one does."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache / "snapshots" / "0123abcd"
        self.fetched: set[str] = set()

    def snapshot_download(self, name, *, revision=None, allow_patterns=None, **_):
        assert name == "someone/model" and allow_patterns
        self.cache.mkdir(parents=True, exist_ok=True)
        for file in self.folder.rglob("*"):
            place = file.relative_to(self.folder).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(place, p) for p in allow_patterns):
                (self.cache / place).parent.mkdir(parents=True, exist_ok=True)
                (self.cache / place).write_bytes(file.read_bytes())
                self.fetched.add(place)
        return str(self.cache)


NOT_READ = (
    "modeling_custom.py",
    "training_args.bin",
    "optimizer.pt",
    "original/consolidated.00.pth",
    "original/params.json",
    "onnx/model.onnx",
    "flax_model.msgpack",
    "model.fp16.safetensors",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "llm.gguf",
    "checkpoint-10/model.safetensors",
    "lora/optimizer.bin",
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    def make(folder):
        for name in NOT_READ:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"not to be fetched")
        found = Hub(folder, tmp_path / "cache")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
        return found

    return make


@pytest.mark.parametrize("shards", [False, True])
def test_an_llm_is_its_configuration_its_weights_and_its_tokenizer(tmp_path, hub, shards):
    folder = tmp_path / "llm"
    tokenizer = byte_level_tokenizer()
    size = "100KB" if shards else "5GB"
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder, max_shard_size=size)
    tokenizer.save_pretrained(folder)
    wanted = {p.name for p in folder.iterdir()}
    assert len(list(folder.glob("model*.safetensors"))) > 1 or not shards
    found = hub(folder)
    load_tokenizer("someone/model")
    assert not any(name.endswith(".safetensors") for name in found.fetched)
    _, reference = load_llm("someone/model")
    assert found.fetched == wanted
    assert reference.revision == "0123abcd"


def test_weights_in_pytorchs_format_are_fetched_where_there_are_no_others(tmp_path, hub):
    import torch

    folder = tmp_path / "llm"
    llm = tiny_llm("llama", 300)
    llm.save_pretrained(folder)
    found = hub(folder)
    (folder / "model.safetensors").unlink()
    torch.save(llm.state_dict(), folder / "pytorch_model.bin")
    load_llm("someone/model")
    assert "pytorch_model.bin" in found.fetched


def test_an_index_cannot_name_files_elsewhere(tmp_path, hub):
    folder = tmp_path / "llm"
    tiny_llm("llama", 300).save_pretrained(folder)
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    hub(folder)
    with pytest.raises(WeightsError, match="files elsewhere"):
        load_llm("someone/model")


def test_a_report_model_is_its_own_files(tmp_path, hub):
    base, folder = tmp_path / "base", tmp_path / "model"
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(base)
    lora = LoraSettings(r=2, alpha=4)
    build(tokenizer, llm=llm, llm_id=str(base), lora=lora).save_pretrained(folder)
    wanted = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    found = hub(folder)
    ReportModel.from_pretrained(model_folder("someone/model"))
    assert found.fetched == wanted


def test_no_connection_is_one_error_with_the_command():
    with pytest.raises(WeightsError, match="hf download no-one/nothing"):
        download("no-one/nothing", ["config.json"])


def test_a_file_is_asked_for_once_where_there_is_no_connection(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def refused(*_, **__):
        asked.append(1)
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refused)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits to try again"))
    with pytest.raises(WeightsError, match=r"hf download no-one/nothing config\.json") as error:
        download_file("no-one/nothing", "config.json", what="encoder")
    assert str(error.value).count("\n") == 0 and asked


def test_a_file_that_a_cached_repository_lacks_is_said_to_be_absent(tmp_path, hub):
    hub(tmp_path)
    with pytest.raises(WeightsError, match=r"there is no weights\.bin"):
        download_file("someone/model", "weights.bin")

"""For every format that is read: a command planted in a file does not run.

Each case writes a file that would leave a mark if it were read without care, and reads it as the
program does. It has to end in the project's own error, and the mark must not be there. The archive
of RadGraph and the models of the metrics have their own cases beside their tests.
"""

import importlib.util
import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_checkpoints import LLAMA, LLAVA_SETTINGS, PREPROCESSING, write_json
from helpers.tiny_models import byte_level_tokenizer, tiny_llm
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model, LlamaConfig
from typer.testing import CliRunner

from llava_rad.config import load_config
from llava_rad.data import load_manifest
from llava_rad.dinov2.image_sources import TarShards
from llava_rad.dinov2.pretrained_heads import load_heads
from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.open_clip_vit import load_open_clip
from llava_rad.errors import LlavaRadError
from llava_rad.interchange import convert
from llava_rad.probing.outcome import load_outcome
from llava_rad.processes import process_state
from llava_rad.report_training import ReportTrainingConfig
from llava_rad.runs.checkpoints import CheckpointWriter, find_checkpoints
from llava_rad.weight_files import read_state_dict

PREPARED = Preprocessing(image_size=28, mean=0.5, std=0.5)


class Touch:
    """A pickle that leaves a file behind when it is loaded without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mknod, (str(self.file),)


class Place:
    """Where a case plants and reads."""

    def __init__(self, folder):
        self.folder = folder
        self.mark = folder / "ran"

    def planted(self, name):
        """A file of torch with a command beside a tensor."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.ones(2), "a": Touch(self.mark)}, file)
        return file

    def code(self, folder, name="evil"):
        """Python that leaves the mark when it is imported."""
        (folder / f"{name}.py").write_text(f"open({str(self.mark)!r}, 'w')\nC = M = P = T = dict\n")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to trust code"))
    place = Place(tmp_path)
    yield place
    assert not place.mark.exists(), "the planted command ran"


def test_the_plant_works(place):
    """Read without care, the same file leaves its mark."""
    torch.load(place.planted("weights.pth"), weights_only=False)
    assert place.mark.exists()
    place.mark.unlink()


def encoder_folder(place, name="encoder"):
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=28)
    )
    Dinov2Encoder(model, PREPARED).save_pretrained(place.folder / name)
    return place.folder / name


def pickled_encoder(place):
    folder = encoder_folder(place)
    (folder / "model.safetensors").unlink()
    place.planted("encoder/pytorch_model.bin")
    load_encoder(folder)


def pickled_encoder_shard(place):
    folder = encoder_folder(place)
    (folder / "model.safetensors").unlink()
    place.planted("encoder/pytorch_model-00001-of-00001.bin")
    weight_map = {"layernorm.weight": "pytorch_model-00001-of-00001.bin"}
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    load_encoder(folder)


def encoder_file(name):
    def read(place):
        load_encoder(place.planted(name), preprocessing=PREPARED)

    return read


def timm_folder(place):
    place.planted("timm/pytorch_model.bin")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}
    write_json(place.folder / "timm" / "config.json", config)
    load_encoder(place.folder / "timm")


def open_clip_folder(place):
    place.planted("clip/open_clip_pytorch_model.bin")
    write_json(
        place.folder / "clip" / "open_clip_config.json",
        {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}},
    )
    load_encoder(place.folder / "clip")


def open_clip_checkpoint(place):
    vision = {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}
    write_json(place.folder / "tower.json", vision)
    load_open_clip(place.folder / "tower.json", place.planted("tower.pt"))


def biovil_folder(place):
    load_encoder(place.planted("biovil/biovil_t_image_model_proj_size_128.pt").parent)


def jepa_folder(place):
    place.code(place.planted("jepa/jepa_encoder.pth.tar").parent, "modeling_radjepa")
    auto = {"AutoConfig": "modeling_radjepa.C", "AutoModel": "modeling_radjepa.M"}
    write_json(place.folder / "jepa" / "config.json", {"auto_map": auto})
    load_encoder(place.folder / "jepa", preprocessing=PREPARED)


def encoder_that_names_code(place):
    folder = encoder_folder(place)
    place.code(folder)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    write_json(folder / "config.json", {**config, "model_type": "evil", "auto_map": auto})
    load_encoder(folder)


def processor_that_names_code(place):
    folder = encoder_folder(place)
    place.code(folder)
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    write_json(file, {**values, "auto_map": {"AutoImageProcessor": "evil.P"}})
    load_encoder(folder)


def numbers_of_numpy_that_are_more(place):
    """The reader knows numpy's numbers; an object in the clothes of one is none."""
    scalar = np.float64(0).__reduce__()[0]

    class Number:
        def __reduce__(self):
            return scalar, (np.dtype("O"), Touch(place.mark))

    torch.save({"loss": Number()}, place.folder / "a.pth")
    read_state_dict(place.folder / "a.pth")


def plain_pickle(place):
    (place.folder / "a.bin").write_bytes(pickle.dumps(Touch(place.mark)))
    read_state_dict(place.folder / "a.bin")


def torchscript(place):
    torch.jit.script(torch.nn.Linear(2, 2)).save(place.folder / "a.pt")
    read_state_dict(place.folder / "a.pt")


def index_of_other_places(place):
    place.planted("elsewhere/weights.bin")
    (place.folder / "model").mkdir()
    weight_map = {"weight": "../elsewhere/weights.bin"}
    write_json(place.folder / "model" / "a.index.json", {"weight_map": weight_map})
    read_state_dict(place.folder / "model" / "a.index.json")


def index_of_itself(place):
    write_json(place.folder / "a.index.json", {"weight_map": {"weight": "a.index.json"}})
    read_state_dict(place.folder / "a.index.json")


def huge_header(place):
    header = struct.pack("<Q", 2**62) + b'{"weight": {}}'
    folder = encoder_folder(place)
    (folder / "model.safetensors").write_bytes(header)
    load_encoder(folder)


def huge_header_alone(place):
    (place.folder / "a.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    read_state_dict(place.folder / "a.safetensors")


def heads(place):
    load_heads(torch.nn.Module(), place.planted("teacher_checkpoint.pth"))


def optimiser_state(place):
    run = place.folder / "run"
    run.mkdir()
    tensors = {"optimiser": {"momentum": torch.zeros(2)}}
    with CheckpointWriter(run / "checkpoints", process_state(), keep=1) as writer:
        writer.save("finetune", 1, tensors, {})
    (saved,) = find_checkpoints(run / "checkpoints")
    (file,) = saved.path.glob("*.safetensors")
    torch.save({"state": {}, "param_groups": Touch(place.mark)}, file)
    saved.tensors("optimiser")


def llava_part(name):
    """A LLaVA checkpoint one of whose files holds a command."""

    def read(place):
        base, folder = place.folder / "base", place.folder / "llava"
        tokenizer = byte_level_tokenizer()
        tiny_llm("llama", len(tokenizer)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        clip = place.folder / "clip"
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1,
            image_size=28, patch_size=14,
        )  # fmt: skip
        CLIPVisionModel(vision).save_pretrained(clip)
        write_json(clip / "preprocessor_config.json", PREPROCESSING)
        config = json.loads((base / "config.json").read_text())
        towers = {"mm_vision_tower": str(clip), "_name_or_path": str(base)}
        if name == "tower_checkpoint.pt":
            write_json(
                folder / "tower.json", {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}
            )
            towers["mm_vision_tower_checkpoint"] = name
        width = config["hidden_size"]
        projector = {
            "model.mm_projector.0.weight": torch.zeros(width, 32),
            "model.mm_projector.0.bias": torch.zeros(width),
            "model.mm_projector.2.weight": torch.zeros(width, width),
            "model.mm_projector.2.bias": torch.zeros(width),
        }
        write_json(folder / "config.json", {**config, **LLAVA_SETTINGS, **towers})
        if name in ("adapter_model.bin", "non_lora_trainables.bin"):
            settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
            write_json(folder / "adapter_config.json", settings)
            torch.save(projector, folder / "non_lora_trainables.bin")
        elif name != "pytorch_model.bin":
            torch.save(projector, folder / "mm_projector.bin")
        place.planted(f"llava/{name}")
        convert(folder, place.folder / "out")

    return read


def transformers_llava(place):
    folder = place.folder / "llava"
    text = LlamaConfig(vocab_size=32, **LLAMA).to_dict()
    config = {"model_type": "llava", "text_config": text, "image_token_index": 31}
    vision = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14}
    auto = {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M"}
    write_json(folder / "config.json", {**config, "vision_config": vision, "auto_map": auto})
    place.code(folder)
    place.planted("llava/pytorch_model.bin")
    convert(folder, place.folder / "out")


def yaml_file(place):
    file = place.folder / "run.yaml"
    file.write_text(f"output: !!python/object/apply:os.mknod [{place.mark}]\n")
    load_config(ReportTrainingConfig, file)


def yaml_override(place):
    value = f"!!python/object/apply:os.mknod [{place.mark}]"
    load_config(ReportTrainingConfig, None, [f"output={value}"])


def saved_predictions(place):
    content = np.array([Touch(place.mark)], dtype=object)
    np.savez(place.folder / "a.npz", content=content)
    load_outcome(place.folder / "a.npz")


def features_of_a_program(place):
    spec = importlib.util.spec_from_file_location(
        "eval_findings", Path(__file__).parents[1] / "eval" / "findings.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = np.array([Touch(place.mark)], dtype=object)
    np.savez(place.folder / "a.npz", ids=values, features=values)
    module._read_features(place.folder / "a.npz")


def array_for_an_image(place):
    content = io.BytesIO()
    np.save(content, np.array([Touch(place.mark)], dtype=object))
    (place.folder / "a.png").write_bytes(content.getvalue())
    from llava_rad.images import load_radiograph

    load_radiograph(place.folder / "a.png")


def tar_shard(place):
    """As webdataset writes them: a member that its readers unpickle, and one of a false name."""
    with tarfile.open(place.folder / "a.tar", "w") as tar:
        for name in ("000.pyd", "000.pickle", "../../ran", "000.png"):
            content = pickle.dumps(Touch(place.mark))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    TarShards(place.folder / "a.tar").read(0)


def tar_shard_of_links(place):
    with tarfile.open(place.folder / "a.tar", "w") as tar:
        info = tarfile.TarInfo("000.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(info)
    TarShards(place.folder / "a.tar")


def manifest_rows(place):
    file = place.folder / "a.parquet"
    file.write_bytes(pickle.dumps(Touch(place.mark)))
    load_manifest(file)


CASES = {
    "encoder, pytorch_model.bin": pickled_encoder,
    "encoder, a shard of pytorch_model.bin": pickled_encoder_shard,
    "encoder, .pth": encoder_file("dinov2_vitb14_pretrain.pth"),
    "encoder, .pt": encoder_file("eva_x_small_patch16_merged520k_mim.pt"),
    "encoder, .pth.tar": encoder_file("jepa-latest.pth.tar"),
    "encoder, .bin": encoder_file("weights.bin"),
    "timm, pytorch_model.bin": timm_folder,
    "open_clip, open_clip_pytorch_model.bin": open_clip_folder,
    "open_clip, .pt": open_clip_checkpoint,
    "BioViL, .pt": biovil_folder,
    "RadJEPA, .pth.tar and modeling code": jepa_folder,
    "encoder, auto_map of an unknown model": encoder_that_names_code,
    "image processor, auto_map": processor_that_names_code,
    "a pickle in a number of numpy": numbers_of_numpy_that_are_more,
    "a pickle that is no file of torch": plain_pickle,
    "TorchScript": torchscript,
    "an index of other places": index_of_other_places,
    "an index of itself": index_of_itself,
    "safetensors, huge header": huge_header,
    "safetensors, huge header, alone": huge_header_alone,
    "pretraining heads, .pth": heads,
    "optimiser state": optimiser_state,
    "LLaVA, adapter_model.bin": llava_part("adapter_model.bin"),
    "LLaVA, non_lora_trainables.bin": llava_part("non_lora_trainables.bin"),
    "LLaVA, mm_projector.bin": llava_part("mm_projector.bin"),
    "LLaVA, pytorch_model.bin": llava_part("pytorch_model.bin"),
    "LLaVA, the tower's checkpoint": llava_part("tower_checkpoint.pt"),
    "transformers' Llava, pytorch_model.bin and auto_map": transformers_llava,
    "YAML file": yaml_file,
    "YAML override": yaml_override,
    "npz of predictions": saved_predictions,
    "npz of features": features_of_a_program,
    "npy in place of an image": array_for_an_image,
    "tar shard": tar_shard,
    "tar shard of links": tar_shard_of_links,
    "parquet": manifest_rows,
}


# Why a file is refused, where it is not that its pickle holds more than tensors.
KINDS = {
    "encoder, auto_map of an unknown model": "unsupported_family",
    "image processor, auto_map": "unsupported_preprocessing",
    "an index of other places": "damaged_weights",
    "an index of itself": "damaged_weights",
    "safetensors, huge header": "damaged_weights",
    "safetensors, huge header, alone": "damaged_weights",
    "YAML file": "bad_yaml",
    "YAML override": "bad_yaml",
    "optimiser state": "damaged_checkpoint",
    "npz of predictions": "bad_predictions",
    "npz of features": "no_features",
    "npy in place of an image": "unknown_format",
    "tar shard": "unknown_format",
    "tar shard of links": "",
    "parquet": "bad_file",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_planted_command_does_not_run(place, case):
    with pytest.raises(LlavaRadError) as caught:
        CASES[case](place)
    assert (caught.value.kind or "") == KINDS.get(case, "unsafe_pickle")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to read without care


def test_a_number_of_numpy_beside_weights_is_read(tmp_path):
    """Training checkpoints hold their loss as one; numpy 1 named its function otherwise."""
    file = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(2), "loss": np.float32(0.25), "epoch": np.int64(3)}, file)
    found = read_state_dict(file)
    assert (found["loss"], found["epoch"]) == (0.25, 3)


def test_the_command_line_neither_runs_nor_asks(place):
    """A base model with code of its own, through the command that users type."""
    from llava_rad.cli import app

    folder = place.folder / "model"
    folder.mkdir()
    place.code(folder)
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    write_json(folder / "config.json", {"model_type": "evil", "auto_map": auto})
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    options = ["convert", str(folder), "-o", str(place.folder / "out")]
    result = CliRunner().invoke(app, options, input="y\n")
    assert result.exit_code == 1 and "error:" in result.stderr

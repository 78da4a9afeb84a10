"""The folder of a checkpoint; of a hub repository, the files that are read and no others."""

from pathlib import Path

from llava_rad.errors import DataError
from llava_rad.model.loading import model_folder
from llava_rad.readers import read_json

# Configuration, tokenizer, and weights that are not the whole LLM's.
_FIRST = (
    "*.json",
    "*.jinja",
    "*.safetensors",
    "*tokenizer.model",
    "*merges.txt",
    "*vocab.txt",
    "adapter_model.bin",
    "non_lora_trainables.bin",
    "mm_projector.bin",
)
_PYTORCH = ("pytorch_model*.bin",)


def source_folder(source: str) -> Path:
    """The local folder of a checkpoint, fetched from the hub if it has to be.

    Repositories often hold an LLM's weights twice; the PyTorch files are fetched only where there
    are no others, and a vision tower's checkpoint where the configuration names it.

    Raises:
        WeightsError: neither a folder, nor to be had from the hub.
    """
    folder = model_folder(source, files=_FIRST)
    if Path(source).expanduser().is_dir():
        return folder
    wanted: list[str] = []
    beside_a_base = ("adapter_config.json", "mm_projector.bin")
    if not any(folder.glob("*.safetensors")) and not any(
        (folder / name).is_file() for name in beside_a_base
    ):
        wanted += _PYTORCH
    if tower := _tower_checkpoint(folder):
        wanted.append(tower)
    return model_folder(source, files=wanted) if wanted else folder


def _tower_checkpoint(folder: Path) -> str | None:
    """Name of the vision tower's checkpoint in the repository, if the model has one there."""
    try:
        config = read_json(folder / "config.json", expect=dict)
        recorded = config.get("mm_vision_tower_checkpoint")
    except DataError:
        return None  # the reader of the configuration says what is wrong with it
    return Path(str(recorded)).name if recorded else None

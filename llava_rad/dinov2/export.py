"""The teacher as an encoder folder, and as a checkpoint that the original repository reads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, PreTrainedConfig

from llava_rad.encoders.dinov2_repo import transformers_to_repo
from llava_rad.encoders.hf import save_model
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.files import write_atomically, write_folder_atomically, write_text
from llava_rad.tensor_files import write_tensors

_HEADS = ("dino_head", "ibot_head")


def export_encoder(
    config: PreTrainedConfig,
    teacher: dict[str, Tensor],
    folder: Path,
    preprocessing: Preprocessing,
    facts: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, configuration, preprocessing, heads and a card.

    Both :func:`llava_rad.encoders.load_encoder` and plain transformers load the folder.

    Args:
        config: of the backbone.
        teacher: its whole tensors by name, backbone and heads. The heads go into files of their
            own, from which a later run can start.
        folder: to write; one that is there is replaced.
        preprocessing: with the training set's own mean and standard deviation.
        facts: lines of the card, such as the numbers of images.
        dtype: of the stored backbone.
    """
    own_config: Any = type(config).from_dict({**config.to_dict(), "drop_path_rate": 0.0})
    registers = config.model_type == "dinov2_with_registers"
    with torch.device("meta"):
        backbone: Any = (Dinov2WithRegistersModel if registers else Dinov2Model)(own_config)
    backbone.load_state_dict(_part(teacher, "backbone"), assign=True)
    with write_folder_atomically(folder) as temporary:
        save_model(backbone.to(dtype), temporary, layer=None)
        preprocessing.write(temporary)
        for head in _HEADS:
            if tensors := _part(teacher, head):
                write_tensors(tensors, temporary / f"{head}.safetensors")
        write_text(temporary / "README.md", _card(preprocessing, facts))


def export_repository_checkpoint(teacher: dict[str, Tensor], path: Path) -> None:
    """Write the teacher with its heads as the original repository's evaluations read it.

    Args:
        teacher: its whole tensors by name.
        path: by custom ``teacher_checkpoint.pth``.
    """
    backbone = transformers_to_repo(_part(teacher, "backbone"))
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    for head in _HEADS:
        tensors |= {f"{head}.{name}": tensor for name, tensor in _part(teacher, head).items()}
    with write_atomically(path) as temporary:
        torch.save({"teacher": tensors}, temporary)


def _part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def _card(preprocessing: Preprocessing, facts: dict[str, Any]) -> str:
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: image-feature-extraction
tags: [dinov2, chest-x-ray]
---
# An image encoder pretrained on radiographs without labels or text

Trained with DINOv2's method (student and teacher, arXiv:2304.07193) by llava-rad's
`training/pretrain_encoder.py`. `dino_head.safetensors` holds the teacher's projection head, from
which a further run can start. Not for clinical use.

| | |
|---|---|
{lines}
| image size | {preprocessing.image_size} |
| pixel mean, standard deviation | {preprocessing.mean[0]:.4f}, {preprocessing.std[0]:.4f} |
| rendering | {preprocessing.rendering} |

```python
from llava_rad import load_encoder

encoder = load_encoder("PATH_OF_THIS_FOLDER")
```
"""

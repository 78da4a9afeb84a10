"""The teacher as an encoder folder, for ``--encoder FOLDER`` and for plain transformers."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from llava_rad.dinov2.student_teacher import Network
from llava_rad.encoders.preprocessing import Preprocessing


def export_encoder(
    teacher: Network,
    folder: Path,
    preprocessing: Preprocessing,
    facts: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, configuration, preprocessing, heads and a card.

    Args:
        teacher: its backbone becomes the encoder; its heads go into files of their own, from
            which a later run can start.
        folder: made if absent.
        preprocessing: with the training set's own mean and standard deviation.
        facts: lines of the card, such as the numbers of images.
        dtype: of the stored backbone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone: Any = copy.deepcopy(teacher.backbone)
    backbone.to(dtype)
    backbone.config.drop_path_rate = 0.0
    backbone.save_pretrained(folder)
    preprocessing.write(folder)
    save_file(_state(teacher.dino_head), folder / "dino_head.safetensors")
    if teacher.ibot_head is not None:
        save_file(_state(teacher.ibot_head), folder / "ibot_head.safetensors")
    (folder / "README.md").write_text(_card(preprocessing, facts), encoding="utf-8")


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


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

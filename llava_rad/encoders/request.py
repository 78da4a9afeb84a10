"""What the registry asks of the module that reads one family's folders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llava_rad.encoders.preprocessing import FILE_NAME, Preprocessing


@dataclass(frozen=True)
class LoadRequest:
    """The argument of each family's ``load()``.

    Attributes:
        folder: holds configuration and weights.
        name: given to the encoder.
        config: content of the folder's ``config.json``.
        dtype: of the weights in memory.
        layer: block to take tokens from; None for what the folder says.
        image_size: side of the input; None for what the preprocessing says.
        preprocessing: instead of the folder's own.
    """

    folder: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    layer: int | None = None
    image_size: int | None = None
    preprocessing: Preprocessing | None = None

    def final_layer(self) -> int | None:
        """The layer asked for, else the one recorded when the folder was saved."""
        return self.layer if self.layer is not None else self.config.get("feature_layer")

    def has_preprocessing(self) -> bool:
        """Whether one was asked for or lies in the folder, so that no published one is needed."""
        return self.preprocessing is not None or (self.folder / FILE_NAME).is_file()

    def final_preprocessing(self, published: Preprocessing | None = None) -> Preprocessing:
        """The one asked for, else ``published``, else the folder's; at the size asked for.

        Raises:
            WeightsError: there is none of the three.
        """
        chosen = self.preprocessing or published or Preprocessing.read(self.folder)
        return chosen.with_image_size(self.image_size or chosen.image_size)

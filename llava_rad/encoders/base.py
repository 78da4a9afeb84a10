"""The one interface behind which every image encoder stands."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llava_rad.encoders.pictures import encode_images
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.weights import LoadReport
from llava_rad.errors import ConfigError, LlavaRadError, ModelError, shown
from llava_rad.files import give_rights
from llava_rad.images import PictureSource, is_picture_source


class EncoderOutput(NamedTuple):
    """What an encoder sees in a batch of images.

    Attributes:
        cls: one vector an image, [batch, dim].
        patches: one vector a patch, row by row from the upper left, [batch, tokens, dim].
    """

    cls: Tensor
    patches: Tensor


class ImageEncoder(nn.Module, ABC):
    """A frozen image encoder: ``pixel_values`` in, one CLS vector and the patch tokens out.

    Parameters do not require gradients and the module stays in evaluation mode whatever its
    parents do, so an encoder inside a training model cannot drift. To fine-tune one, call
    ``requires_grad_(True)`` on it.

    With ``layer=None`` tokens are those after the encoder's final LayerNorm. A negative ``layer``
    takes the output of that block instead, counted from the end (-1 the last, -2 the one before
    it), which no norm has touched. Register tokens are never returned.

    Attributes:
        name: what it was loaded as.
        preprocessing: makes its input; always saved with the weights.
        layer: see above.
        dim: length of each token.
        patch_size: side of a patch in pixels.
        load_report: which tensors came from where; None for a model made in memory.
    """

    dim: int
    patch_size: int
    depth: int

    # Whether pixels that do not fill a patch, at the right and lower edge, are left out; else an
    # image with such pixels is refused.
    cuts_partial_patches = False

    def __init__(self, name: str, preprocessing: Preprocessing, *, layer: int | None = None):
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.layer = layer
        self.load_report: LoadReport | None = None

    def _freeze(self, *, dim: int, patch_size: int, depth: int) -> None:
        """Called last by each family's constructor."""
        self.dim, self.patch_size, self.depth = dim, patch_size, depth
        layer = self.layer
        if layer is not None and not (isinstance(layer, int) and -depth <= layer <= -1):
            raise ConfigError(
                f"layer {shown(layer)} does not exist in an encoder of {depth} blocks",
                where=self.name,
                remedy=f"Use -1 to -{depth}, or None for the output after the final norm",
            )
        self.requires_grad_(False)
        self.eval()

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that ``preprocessing`` makes."""
        return self.preprocessing.image_size

    @property
    def num_tokens(self) -> int:
        """Patch tokens of one image of ``image_size``."""
        rows, columns = self.grid(self.image_size, self.image_size)
        return rows * columns

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the tokens."""
        return next(self.parameters()).dtype

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid for an image of this size in pixels.

        Raises:
            ModelError: a side holds no patch, or is not a multiple of the patch size where the
                family needs that.
        """
        for side in (height, width):
            partial = side % self.patch_size and not self.cuts_partial_patches
            if side < self.patch_size or partial:
                raise ModelError(
                    f"an image of {height} x {width} pixels does not divide into patches of "
                    f"{self.patch_size}",
                    where=self.name,
                    remedy=f"Use sides that are multiples of {self.patch_size}",
                )
        return height // self.patch_size, width // self.patch_size

    def encode(self, pixel_values: Tensor) -> EncoderOutput:
        """Encode a batch.

        Args:
            pixel_values: made by ``preprocessing``, [batch, 3, height, width]. Other sizes than
                ``image_size`` are encoded with an interpolated position table.

        Raises:
            ModelError: the shape does not fit.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ModelError(
                f"expected pixel_values [batch, 3, height, width], got {list(pixel_values.shape)}",
                where=self.name,
                remedy="Make them with the encoder's preprocessing and stack them",
            )
        self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        return self._encode(pixel_values.to(self.dtype))

    def embed(
        self,
        images: PictureSource | Iterable[PictureSource],
        *,
        batch_size: int = 8,
        frame: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector an image: the CLS token, or what the family has in its place.

        Args:
            images: one or several: paths, bytes, pictures of Pillow, arrays, radiographs; all that
                :func:`llava_rad.load_radiograph` takes.
            batch_size: images encoded together.
            frame: which picture of files that hold several, counted from 1.

        Returns:
            float32 [images, dim].

        Raises:
            ImageError: an image cannot be read; it is named.

        Example:
            >>> encoder = llava_rad.load_encoder("mini")
            >>> encoder.embed(["chest.dcm", "lateral.dcm"]).shape
            (2, 192)
        """
        rows = [cls for cls, _ in self._tokens_of(images, batch_size, frame)]
        return torch.stack(rows).float().numpy() if rows else np.empty((0, self.dim), np.float32)

    def patches(
        self,
        images: PictureSource | Iterable[PictureSource],
        *,
        batch_size: int = 8,
        frame: int | None = None,
    ) -> NDArray[np.float32]:
        """The patch tokens of images, row by row from the upper left.

        Args:
            images: as for :meth:`embed`.
            batch_size: images encoded together.
            frame: which picture of files that hold several, counted from 1.

        Returns:
            float32 [images, tokens, dim]; :meth:`grid` says how many rows and columns they are.

        Raises:
            ImageError: an image cannot be read; it is named.

        Example:
            >>> encoder = llava_rad.load_encoder("mini")
            >>> encoder.patches("chest.dcm").shape
            (1, 144, 192)
        """
        rows = [patches for _, patches in self._tokens_of(images, batch_size, frame)]
        empty = np.empty((0, self.num_tokens, self.dim), np.float32)
        return torch.stack(rows).float().numpy() if rows else empty

    def _tokens_of(
        self,
        images: PictureSource | Iterable[PictureSource],
        batch_size: int,
        frame: int | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        several = [images] if is_picture_source(images) else images
        sources = cast("Iterable[PictureSource]", several)
        for _, tokens in encode_images(self, sources, batch_size=batch_size, frame=frame):
            if isinstance(tokens, LlavaRadError):
                raise tokens
            yield tokens

    def forward(self, pixel_values: Tensor) -> EncoderOutput:
        """Same as :meth:`encode`."""
        return self.encode(pixel_values)

    @abstractmethod
    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        """The family's forward pass on checked input of the weights' dtype."""

    @abstractmethod
    def _save_weights(self, folder: Path) -> None:
        """Write configuration and ``model.safetensors`` in the family's usual layout."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that :func:`llava_rad.encoders.load_encoder` reads back unchanged."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_weights(folder)
        beside = self.preprocessing.write(folder)
        give_rights(folder.glob("*.safetensors"), beside.stat().st_mode & 0o777)

    def fingerprint(self) -> str:
        """SHA-256 of all that its tokens depend on: weights, their dtype, layer, preprocessing."""
        digest = hashlib.sha256()
        settings = {**self.preprocessing.to_dict(), "layer": self.layer, **self._settings()}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
        return digest.hexdigest()

    def _settings(self) -> dict[str, object]:
        """Settings of the family that change its tokens without changing its weights."""
        return {}

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Stay in evaluation mode."""
        return super().train(False)

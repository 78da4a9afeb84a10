"""One vector an image from a frozen encoder, out of the feature store."""

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, DataError
from llava_rad.features import VECTORS, FeatureStore, Progress, fill_together

_LOG = logging.getLogger(__name__)

POOLINGS = ("cls", "mean", "cls+mean")
ATTENTIVE = "attentive"  # the pooling that is learnt, by another probe


@dataclass(frozen=True)
class Features:
    """Vectors of images.

    Attributes:
        cls: the encoder's CLS vectors, float32 [images, dim].
        mean: means of the patch tokens, float32 [images, dim].
    """

    cls: Tensor
    mean: Tensor

    def pooled(self, pooling: str) -> Tensor:
        """CLS, the mean of the patches, or both one after the other.

        Raises:
            ConfigError: ``pooling`` is none of the three.
        """
        if pooling == "cls":
            return self.cls
        if pooling == "mean":
            return self.mean
        if pooling == "cls+mean":
            return torch.cat([self.cls, self.mean], dim=1)
        raise ConfigError(f"pooling is {pooling!r}", remedy=f"Use one of {', '.join(POOLINGS)}")


def extract_features(
    encoder: ImageEncoder,
    paths: Sequence[str],
    *,
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Features:
    """Encode images, or read what was encoded before.

    Several processes of ``accelerate launch`` share the work. Batches are the same whatever their
    number, and so are the vectors.

    Args:
        encoder: frozen.
        paths: image files.
        cache: folder for the vectors of all encoders; None keeps nothing.
        workers: processes that read images ahead; 0 reads them in this one.
        progress: called with (encoded, to encode) about ten times.

    Returns:
        The vectors, in the order of the paths.

    Raises:
        ImageError: an image cannot be read.
    """
    with contextlib.ExitStack() as stack:
        folder = cache or stack.enter_context(tempfile.TemporaryDirectory())
        store = FeatureStore(folder, encoder, VECTORS, workers=workers)
        try:
            fill_together(store, paths, progress)
        except DataError as error:
            # The probe goes on with what it encodes now, the next one encodes again.
            _LOG.warning("vectors are not kept: %s", error)
        cls, mean = store.read(paths).unbind(1)
    return Features(cls, mean)

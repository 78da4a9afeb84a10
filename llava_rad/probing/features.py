"""One vector an image from a frozen encoder, computed once and kept on disk.

The vectors of an encoder lie in a folder of its fingerprint, as safetensors files of some thousand
images each, under the SHA-256 of each image's file: a renamed file is found again, a changed one
is not. Patch tokens, which take a thousand times the space, are kept by
:class:`llava_rad.features.FeatureCache`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_rad.encoders import ImageEncoder, Preprocessing
from llava_rad.errors import ConfigError, DataError, WeightsError
from llava_rad.features import FeatureCache
from llava_rad.files import ContentKeys, clear_leftovers, read_tensors_and_metadata, write_tensors
from llava_rad.images import load_radiograph
from llava_rad.processes import process_state
from llava_rad.readers import parse_json

_LOG = logging.getLogger(__name__)

POOLINGS = ("cls", "mean", "cls+mean")
ATTENTIVE = "attentive"  # the pooling that is learnt, by another probe

BATCH = 16
_SHARD = 2048  # images
_HASHES_FILE = "files.json"


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


class InputBatches(Dataset):
    """Batches of encoder inputs, [batch, 3, height, width], read from image files."""

    def __init__(self, batches: Sequence[Sequence[str]], preprocessing: Preprocessing) -> None:
        self.batches = batches
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Tensor:
        rendering = self.preprocessing.rendering
        return torch.stack(
            [
                self.preprocessing(load_radiograph(path, rendering=rendering))
                for path in self.batches[index]
            ]
        )


def extract_features(
    encoder: ImageEncoder,
    paths: Sequence[str],
    *,
    cache: Path | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
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
    state = process_state()
    folder = cache / encoder.fingerprint()[:32] if cache else None
    key_of = ContentKeys(folder / _HASHES_FILE) if folder else str
    keys = {path: key_of(path) for path in dict.fromkeys(paths)}
    known = _read_shards(folder, encoder.dim) if folder else {}
    wanted = {key: path for path, key in keys.items() if key not in known}
    missing = list(wanted)
    told = 0
    for start in range(0, len(missing), _SHARD):
        shard = missing[start : start + _SHARD]
        batches = [shard[i : i + BATCH] for i in range(0, len(shard), BATCH)]
        mine = batches[state.process_index :: state.num_processes]
        inputs = InputBatches([[wanted[k] for k in b] for b in mine], encoder.preprocessing)
        loader = DataLoader(inputs, batch_size=None, num_workers=workers)
        encoded: list[tuple[str, Tensor, Tensor]] = []
        for batch, pixels in zip(mine, loader, strict=True):
            cls, mean = _encode(encoder, pixels)
            encoded += zip(batch, cls, mean, strict=True)
            done = min(start + len(encoded) * state.num_processes, len(missing))
            if progress and done - told >= len(missing) / 10:
                progress(done, len(missing))
                told = done
        fresh = {key: (cls, mean) for key, cls, mean in gather_object(encoded)}
        known |= fresh
        if folder and state.is_main_process:
            _write_shard(folder, fresh)
    if isinstance(key_of, ContentKeys) and state.is_main_process:
        key_of.remember()
    rows = [known[keys[path]] for path in paths]
    return Features(torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows]))


def fill_cache(cache: FeatureCache, paths: Sequence[str], say: Callable[[str], None]) -> None:
    """Encode the patch tokens that a cache lacks, each process its share.

    Args:
        cache: of the encoder.
        paths: image files.
        say: called with a line after each batch.
    """
    state = process_state()
    cache.fill(
        paths,
        rank=state.process_index,
        processes=state.num_processes,
        progress=lambda done, of: say(f"encoded patches of {done} of {of}"),
    )
    state.wait_for_everyone()
    cache.refresh()


@torch.inference_mode()
def _encode(encoder: ImageEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    output = encoder.encode(pixels.to(next(encoder.parameters()).device))
    return output.cls.float().cpu(), output.patches.float().mean(dim=1).cpu()


def _read_shards(folder: Path, dim: int) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors, about = read_tensors_and_metadata(path)
            keys = parse_json(about["images"], where=path)
            cls, mean = tensors["cls"], tensors["mean"]
        except (WeightsError, DataError, KeyError, ValueError) as error:
            _LOG.warning("the images of %s are encoded again: %s", path.name, error)
            continue
        if cls.shape == mean.shape == (len(keys), dim):
            found |= {k: (c, m) for k, c, m in zip(keys, cls, mean, strict=True)}
    return found


def _write_shard(folder: Path, vectors: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Write a shard named after its images, so that a damaged one is replaced by its repair."""
    keys = sorted(vectors)
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        write_tensors(
            {
                "cls": torch.stack([vectors[k][0] for k in keys]),
                "mean": torch.stack([vectors[k][1] for k in keys]),
            },
            folder / f"{name}.safetensors",
            metadata={"images": json.dumps(keys)},
        )
    except (OSError, WeightsError) as error:
        # What was encoded is at hand: the probe goes on, the next one encodes again.
        _LOG.warning("the vectors of %d images are not kept: %s", len(keys), error)

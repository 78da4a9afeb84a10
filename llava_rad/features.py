"""What a frozen encoder sees of images, computed once and kept on disk.

A store is a folder of shards: safetensors files with one tensor, a row an image, and in the header
the keys of its images and a checksum of each row. Everything that a row depends on decides which
folder it is: the encoder (weights, dtype, layer, preprocessing), the kind of row, and whether it
was computed in mixed precision.

Shards are written under a temporary name and renamed, each under a name of its own: several
processes, and several runs and users, fill one folder at once without knowing of each other, and a
process that is killed loses at most the shard it was filling. Nobody removes what another user
wrote; what cannot be read or is damaged is made again once, in a later shard.

Nothing is held open, so that the workers of a data loader can read: :meth:`FeatureStore.find` in
them, :meth:`FeatureStore.mend` where the encoder is.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava_rad.encoders import EncoderOutput, ImageEncoder, Preprocessing
from llava_rad.errors import DataError, ImageError, WeightsError
from llava_rad.file_keys import ContentKeys, stamp_key
from llava_rad.files import clear_leftovers, size_text
from llava_rad.images import load_radiograph
from llava_rad.processes import process_state
from llava_rad.readers import parse_json
from llava_rad.runs.loading import read_ahead
from llava_rad.runs.together import in_all
from llava_rad.tensor_files import CHECKSUMS, seal_of, write_tensors

_LOG = logging.getLogger(__name__)

#: How an image is known again: by path, size and time of change, or by what its file holds.
Keys = Literal["stamp", "content"]
#: Called with (encoded, to encode), about ten times.
Progress = Callable[[int, int], None]

BATCH = 16  # images encoded together
_FORMAT = "2"
_SHARD_BYTES = 256 << 20
_SHARD_IMAGES = 2048
_HASHES_FILE = "files.json"
_DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32"}


@dataclass(frozen=True)
class Kind:
    """What a store keeps of an image.

    Attributes:
        name: of the tensor, and the beginning of the folder's name.
        dtype: of the rows. With bfloat16 an accelerator computes them in mixed precision too.
        make: rows [images, ...] of an encoder's output.
        shape: of a row.
    """

    name: str
    dtype: torch.dtype
    make: Callable[[EncoderOutput], Tensor]
    shape: Callable[[ImageEncoder], tuple[int, ...]]


def _patches(output: EncoderOutput) -> Tensor:
    return output.patches


def _patches_shape(encoder: ImageEncoder) -> tuple[int, ...]:
    return encoder.num_tokens, encoder.dim


def _vectors(output: EncoderOutput) -> Tensor:
    return torch.stack([output.cls.float(), output.patches.float().mean(dim=1)], dim=1)


def _vectors_shape(encoder: ImageEncoder) -> tuple[int, ...]:
    return 2, encoder.dim


#: Patch tokens, bfloat16 [tokens, dim].
PATCHES = Kind("patches", torch.bfloat16, _patches, _patches_shape)
#: CLS and the mean of the patch tokens, float32 [2, dim].
VECTORS = Kind("vectors", torch.float32, _vectors, _vectors_shape)


class _Place(NamedTuple):
    shard: Path
    offset: int
    checksum: int


class FeatureStore:
    """What one encoder sees of images.

    Args:
        folder: of all stores; this one takes a folder in it.
        encoder: frozen; images that are missing are encoded with it.
        kind: what is kept.
        keys: ``stamp`` looks at no file's content; with ``content`` each is read once, and then
            renamed and copied images are found.
        workers: processes that read images while others are encoded.

    Attributes:
        folder: of this store's shards.
        rejected: shards that were found damaged or foreign, with the reason; what they held is
            made again.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: ImageEncoder,
        kind: Kind = PATCHES,
        *,
        keys: Keys = "content",
        workers: int = 0,
    ) -> None:
        self.encoder = encoder
        self.kind = kind
        self.workers = workers
        self.shape = kind.shape(encoder)
        self.rejected: dict[str, str] = {}
        self._mixed = kind.dtype is torch.bfloat16 and self._device.type != "cpu"
        computed = ", mixed precision" if self._mixed else ""
        self._identity = f"{_FORMAT} {encoder.fingerprint()} {kind.name} {kind.dtype}{computed}"
        name = hashlib.sha256(self._identity.encode()).hexdigest()[:32]
        self.folder = Path(folder) / f"{kind.name}-{name}"
        self._content = ContentKeys(Path(folder) / _HASHES_FILE) if keys == "content" else None
        self._places: dict[str, _Place] = {}
        self._seen: set[str] = set()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoder: workers only read."""
        return {**vars(self), "encoder": None}

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def bytes_per_image(self) -> int:
        """Space that one image takes."""
        return torch.Size(self.shape).numel() * self.kind.dtype.itemsize

    def _key(self, path: str) -> str:
        return self._content(path) if self._content else stamp_key(path)

    def __contains__(self, path: str) -> bool:
        return self._key(path) in self._places

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Paths of images that are not there yet, each once."""
        unique = self._unique(paths)
        return [path for key, path in unique.items() if key not in self._places]

    def _unique(self, paths: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in dict.fromkeys(paths):
            found.setdefault(self._key(path), path)
        return found

    # Filling

    def fill(
        self,
        paths: Sequence[str],
        *,
        rank: int = 0,
        processes: int = 1,
        progress: Progress | None = None,
    ) -> int:
        """Encode this process's share of the missing images; see :func:`fill_together`.

        Batches are cut from all images in their order, so that they are the same in a run that
        resumes and with any number of processes.

        Args:
            paths: all image files that will be read.
            rank: of this process.
            processes: that fill together.
            progress: told how many images all processes have encoded, as far as this one knows.

        Returns:
            How many images were encoded here.

        Raises:
            DataError: the disk is too small or full.
            ImageError: an image cannot be read.
        """
        unique = self._unique(paths)
        absent = [key for key in unique if key not in self._places]
        if absent:
            self._check_space(len(absent))
        if rank == 0 and self.folder.is_dir():
            clear_leftovers(self.folder)
        wanted, keys = set(absent), list(unique)
        batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
        mine = [left for b in batches[rank::processes] if (left := [k for k in b if k in wanted])]
        room = min(_SHARD_BYTES // self.bytes_per_image, _SHARD_IMAGES)
        encoded = self._encode([[unique[key] for key in batch] for batch in mine])
        done = told = 0
        kept: list[Tensor] = []
        of_kept: list[str] = []
        for batch, rows in zip(mine, encoded, strict=True):
            kept.append(rows)
            of_kept += batch
            done += len(batch)
            if len(of_kept) + BATCH > room or batch is mine[-1]:
                self._write(of_kept, torch.cat(kept))
                kept, of_kept = [], []
            everyone = min(done * processes, len(absent))
            if progress and everyone - told >= len(absent) / 10:
                progress(everyone, len(absent))
                told = everyone
        if self._content and rank == 0:
            self._content.remember()
        return done

    @torch.inference_mode()
    def _encode(self, batches: Sequence[Sequence[str]]) -> Generator[Tensor]:
        """Rows of batches of image files, [images, ...] each."""
        device = self._device
        mixed = torch.autocast(device.type, torch.bfloat16, enabled=self._mixed)
        workers = self.workers if len(batches) > 1 else 0
        pin = device.type == "cuda"
        for pixels in read_inputs(batches, self.encoder.preprocessing, workers, pin=pin):
            with mixed:
                output = self.encoder.encode(pixels.to(device, non_blocking=True))
            yield self.kind.make(output).to("cpu", self.kind.dtype)

    # Reading

    def read(self, paths: Sequence[str]) -> Tensor:
        """Rows of images, [images, ...]; what is missing or damaged is encoded.

        Raises:
            ImageError: an image that has to be encoded cannot be read.
        """
        rows, lost = self.find(paths)
        self.mend(paths, rows, lost)
        return rows

    def find(self, paths: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Rows of images, [images, ...], and the places of those that are missing or damaged.

        The encoder is not asked, so that the workers of a data loader can call this.
        """
        rows = torch.empty(len(paths), *self.shape, dtype=self.kind.dtype)
        return rows, [i for i, path in enumerate(paths) if self._fetch(rows[i], path)]

    def mend(self, paths: Sequence[str], rows: Tensor, lost: Sequence[int]) -> None:
        """Fill in what :meth:`find` did not find, and keep it in a new shard.

        Args:
            paths: as given to :meth:`find`.
            rows: its rows.
            lost: its places.

        Raises:
            ImageError: an image cannot be read.
        """
        again: dict[str, list[int]] = {}
        for i in lost:  # perhaps mended since by this process
            if reason := self._fetch(rows[i], paths[i]):
                if place := self._places.pop(self._key(paths[i]), None):
                    self._reject(place.shard, reason)
                again.setdefault(paths[i], []).append(i)
        if not again:
            return
        unique = list(again)
        batches = [unique[i : i + BATCH] for i in range(0, len(unique), BATCH)]
        made = torch.cat(list(self._encode(batches)))
        for path, row in zip(unique, made, strict=True):
            rows[again[path]] = row
        try:
            self._write([self._key(path) for path in unique], made)
        except DataError as error:
            _LOG.warning("feature store: not mended: %s", error)

    def _fetch(self, row: Tensor, path: str) -> str:
        """Read an image's row into a tensor; empty, or the reason why it cannot be."""
        try:
            place = self._places.get(self._key(path))
        except ImageError as error:
            return str(error)
        if place is None:
            return "it is not there"
        content = row.flatten().view(torch.uint8).numpy().data
        try:
            with place.shard.open("rb", buffering=0) as file:
                file.seek(place.offset)
                count = file.readinto(content)
        except OSError as error:
            return f"it cannot be read ({error})"
        whole = count == len(content) and zlib.crc32(content) == place.checksum
        return "" if whole else "a row does not have its checksum"

    # Shards

    def refresh(self) -> None:
        """Take up shards that were written since the last look."""
        shards = [s for s in self.folder.glob("*.safetensors") if s.name not in self._seen]
        # The last row of an image counts, so damaged ones stay replaced.
        for shard in sorted(shards, key=lambda s: s.name):
            self._take_up(shard)

    def _take_up(self, shard: Path) -> None:
        self._seen.add(shard.name)
        try:
            self._places |= self._places_in(shard)
        except (OSError, ValueError, LookupError, TypeError, struct.error, DataError) as error:
            if not shard.exists():
                return
            if not os.access(shard, os.R_OK):
                self._reject(shard, "there is no right to read it")
                return
            self._reject(shard, f"it cannot be used ({error})")
            with contextlib.suppress(OSError):
                if not hasattr(os, "geteuid") or shard.stat().st_uid == os.geteuid():
                    shard.unlink()

    def _places_in(self, shard: Path) -> dict[str, _Place]:
        with shard.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("it is cut off")
            header = parse_json(file.read(length).decode(), where=shard)
        about, tensor = header["__metadata__"], header[self.kind.name]
        sums = parse_json(about.pop(CHECKSUMS), where=shard)
        if seal_of(sums["tensors"], about) != sums["all"]:
            raise ValueError("its header does not have its checksum")
        if about["identity"] != self._identity:
            raise ValueError("it is of another encoder, kind or format")
        keys, checksums = (parse_json(about[name], where=shard) for name in ("images", "rows"))
        shape, dtype = [len(keys), *self.shape], _DTYPES[self.kind.dtype]
        if tensor["shape"] != shape or tensor["dtype"] != dtype:
            raise ValueError(f"it holds {tensor['dtype']} {tensor['shape']}, not {dtype} {shape}")
        start = 8 + length + tensor["data_offsets"][0]
        if start + len(keys) * self.bytes_per_image > size:
            raise ValueError("it is cut off")
        return {
            key: _Place(shard, start + row * self.bytes_per_image, checksum)
            for row, (key, checksum) in enumerate(zip(keys, checksums, strict=True))
        }

    def _reject(self, shard: Path, reason: str) -> None:
        _LOG.warning("feature store: %s is made again: %s", shard.name, reason)
        self.rejected[shard.name] = reason

    def _write(self, keys: list[str], rows: Tensor) -> None:
        # Numbered after those known here, not by a clock, which may be set back.
        number = 1 + max((_number(name) for name in self._seen), default=0)
        shard = self.folder / f"{number:020d}-{secrets.token_hex(4)}.safetensors"
        about = {
            "identity": self._identity,
            "images": json.dumps(keys),
            "rows": json.dumps(
                [zlib.crc32(row.flatten().view(torch.uint8).numpy().data) for row in rows]
            ),
        }
        try:
            write_tensors({self.kind.name: rows}, shard, metadata=about)
        except (OSError, WeightsError) as error:
            raise self._refused("cannot be written", error) from error
        self._take_up(shard)

    def _check_space(self, images: int) -> None:
        needed = images * self.bytes_per_image
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._refused("have no folder", error) from error
        if needed > free:
            raise DataError(
                f"{self.kind.name} of {images} images take {size_text(needed)}, "
                f"{size_text(free)} are free",
                where=self.folder,
                remedy="Keep them on a larger disk (data.cache_folder, --cache), or set "
                "data.cache_features=false",
                kind="disk_full",
            )

    def _refused(self, what: str, error: Exception) -> DataError:
        return DataError(
            f"{self.kind.name} of images {what} ({error})",
            where=self.folder,
            remedy="Free space, correct the rights, or keep them on another disk "
            "(data.cache_folder, --cache)",
            kind="cache_not_written",
        )


def fill_together(
    store: FeatureStore, paths: Sequence[str], progress: Progress | None = None
) -> None:
    """Encode what a store lacks: each process of this run its share, then all see all.

    Args:
        store: the same in every process.
        paths: all image files that will be read.
        progress: as for :meth:`FeatureStore.fill`.

    Raises:
        DataError, ImageError: as there, in all processes.
    """
    state = process_state()
    rank, processes = state.process_index, state.num_processes
    in_all(state, lambda: store.fill(paths, rank=rank, processes=processes, progress=progress))
    store.refresh()


def read_inputs(
    batches: Sequence[Sequence[str]],
    preprocessing: Preprocessing,
    workers: int = 0,
    *,
    pin: bool = False,
) -> Generator[Tensor]:
    """Encoder inputs of batches of image files, [images, 3, height, width] each.

    Args:
        batches: image files.
        preprocessing: of the encoder.
        workers: processes that read ahead; 0 reads in this one.
        pin: see :func:`llava_rad.runs.loading.read_ahead`.

    Raises:
        ImageError: an image cannot be read, when its batch's turn comes.
    """
    yield from read_ahead(_Inputs(batches, preprocessing), range(len(batches)), workers, pin=pin)


class _Inputs(Dataset[Tensor]):
    def __init__(self, batches: Sequence[Sequence[str]], preprocessing: Preprocessing) -> None:
        self.batches = batches
        self.preprocessing = preprocessing

    def __getitem__(self, number: int) -> Tensor:
        rendering = self.preprocessing.rendering
        images = (load_radiograph(path, rendering=rendering) for path in self.batches[number])
        return torch.stack([self.preprocessing(image) for image in images])


def _number(name: str) -> int:
    """The place of a shard among all, from its name."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0

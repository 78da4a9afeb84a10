"""Patch tokens of a frozen encoder, computed once and kept on disk.

One folder per encoder (its fingerprint covers weights, dtype, layer and preprocessing) holds
shards: safetensors files with ``patches`` in bfloat16, [images, tokens, dim], and with the
SHA-256 of each image's file and a checksum of each image's tokens in their metadata. What is
looked up is an image's content, so renamed and copied files are found and changed ones are not.

Shards are written under a temporary name and renamed, each under a name of its own: several
processes, and several runs and users, fill one folder at once without knowing of each other, and a
process that is killed loses at most the shard it was filling. Nobody removes what another user
wrote; what cannot be read or is damaged is made again once, in a later shard.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import DataError
from llava_rad.files import ContentKeys, clear_leftovers, size_text, write_atomically
from llava_rad.images import load_radiograph
from llava_rad.readers import parse_json

_LOG = logging.getLogger(__name__)

FORMAT = "1"
_SHARD_BYTES = 256 << 20
_ENCODE_BATCH = 16
_HASHES_FILE = "files.json"


class _Place(NamedTuple):
    shard: Path
    row: int
    checksum: int


class FeatureCache:
    """The cached patch tokens of one encoder.

    Args:
        folder: of all caches; this one takes a folder in it.
        encoder: frozen; images that are missing are encoded with it, in its own dtype.

    Attributes:
        folder: of this encoder's shards.
        rejected: shards that were found damaged or foreign, with the reason; what they held is
            made again.
    """

    def __init__(self, folder: str | Path, encoder: ImageEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = encoder.fingerprint()
        self.folder = Path(folder) / self.fingerprint[:32]
        self.rejected: dict[str, str] = {}
        self._places: dict[str, _Place] = {}
        self._read_shards: set[str] = set()
        self._hash = ContentKeys(self.folder / _HASHES_FILE)
        self._open: dict[Path, safe_open] = {}
        self.refresh()

    @property
    def bytes_per_image(self) -> int:
        """Space that one image takes."""
        return self.encoder.num_tokens * self.encoder.dim * 2

    def __contains__(self, path: str) -> bool:
        return self._hash(path) in self._places

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Paths whose tokens are not there yet, each content once."""
        found: dict[str, str] = {}
        for path in paths:
            key = self._hash(path)
            if key not in self._places:
                found.setdefault(key, path)
        return list(found.values())

    def fill(
        self,
        paths: Sequence[str],
        *,
        rank: int = 0,
        processes: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Encode this process's share of the missing images.

        With several processes each calls it, waits for the others and calls :meth:`refresh`.

        Args:
            paths: all image files that will be read.
            rank: of this process.
            processes: that fill together.
            progress: called with (encoded, to encode) after each batch.

        Returns:
            How many images were encoded here.

        Raises:
            DataError: the disk is too small or full.
            ImageError: an image cannot be read.
        """
        missing = set(self.missing(paths))
        if missing:
            self._check_space(len(missing))
        if rank == 0 and self.folder.is_dir():
            clear_leftovers(self.folder)
        # Shares are cut from all paths: what is missing shrinks while the others write.
        mine = [path for path in list(dict.fromkeys(paths))[rank::processes] if path in missing]
        rows = max(1, _SHARD_BYTES // self.bytes_per_image)
        done = 0
        for start in range(0, len(mine), rows):
            part = mine[start : start + rows]
            tokens = []
            for first in range(0, len(part), _ENCODE_BATCH):
                tokens.append(self._encode(part[first : first + _ENCODE_BATCH]))
                done += len(tokens[-1])
                if progress:
                    progress(done, len(mine))
            self._write([self._hash(path) for path in part], torch.cat(tokens))
        if rank == 0:
            self._hash.remember()
        return done

    def read(self, paths: Sequence[str]) -> Tensor:
        """Patch tokens of images: bfloat16 [images, tokens, dim].

        Tokens that do not have their checksum are encoded again and replaced.

        Raises:
            ImageError: an image that has to be encoded cannot be read.
        """
        found = [self._row(path) for path in paths]
        again = [path for path, row in zip(paths, found, strict=True) if row is None]
        if again:
            unique = list(dict.fromkeys(again))
            tokens = torch.cat([self._encode([path]) for path in unique])
            try:
                self._write([self._hash(path) for path in unique], tokens)
            except DataError as error:
                _LOG.warning("feature cache: not mended: %s", error)
            fresh = dict(zip(unique, tokens, strict=True))
            found = [fresh[p] if r is None else r for p, r in zip(paths, found, strict=True)]
        return torch.stack([row for row in found if row is not None])

    def refresh(self) -> None:
        """Take up shards that were written since the last look."""
        shards = [s for s in self.folder.glob("*.safetensors") if s.name not in self._read_shards]
        # The last tokens of an image count, so damaged ones stay replaced.
        for shard in sorted(shards, key=lambda s: s.name):
            self._read_shards.add(shard.name)
            self._take_up(shard)

    def _take_up(self, shard: Path) -> None:
        try:
            with safe_open(shard, framework="pt") as opened:
                facts = opened.metadata() or {}
                shape = opened.get_slice("patches").get_shape()
                dtype = opened.get_slice("patches").get_dtype()
            keys = parse_json(facts.get("images", "[]"), where=shard)
            checksums = parse_json(facts.get("checksums", "[]"), where=shard)
        except (OSError, ValueError, SafetensorError, DataError) as error:
            if not shard.exists():
                return
            if not os.access(shard, os.R_OK):
                self._reject(shard, "there is no right to read it")
            else:
                self._remove(shard, f"it cannot be read ({error})")
            return
        expected = [len(keys), self.encoder.num_tokens, self.encoder.dim]
        if facts.get("format") != FORMAT or facts.get("encoder") != self.fingerprint:
            self._remove(shard, "it is of another encoder or format")
        elif shape != expected or dtype != "BF16" or len(checksums) != len(keys):
            self._remove(shard, f"it holds {dtype} {shape}, expected BF16 {expected}")
        else:
            for row, (key, checksum) in enumerate(zip(keys, checksums, strict=True)):
                self._places[key] = _Place(shard, row, checksum)

    def _reject(self, shard: Path, reason: str) -> None:
        _LOG.warning("feature cache: %s is made again: %s", shard.name, reason)
        self.rejected[shard.name] = reason

    def _remove(self, shard: Path, reason: str) -> None:
        """Take a shard of our own away that nobody can use."""
        self._reject(shard, reason)
        with contextlib.suppress(OSError):
            if not hasattr(os, "geteuid") or shard.stat().st_uid == os.geteuid():
                shard.unlink()

    def _row(self, path: str) -> Tensor | None:
        """An image's tokens, or None where they are missing or damaged."""
        key = self._hash(path)
        place = self._places.get(key)
        if place is None:
            return None
        try:
            if place.shard not in self._open:
                self._open[place.shard] = safe_open(place.shard, framework="pt").__enter__()
            row = self._open[place.shard].get_slice("patches")[place.row]
        except (OSError, SafetensorError) as error:
            self._reject(place.shard, f"it cannot be read ({error})")
        else:
            if _checksum(row) == place.checksum:
                return row
            self._reject(place.shard, f"row {place.row} does not have its checksum")
        del self._places[key]
        return None

    @torch.inference_mode()
    def _encode(self, paths: Sequence[str]) -> Tensor:
        preprocessing = self.encoder.preprocessing
        inputs = [
            preprocessing(load_radiograph(p, rendering=preprocessing.rendering)) for p in paths
        ]
        device = next(self.encoder.parameters()).device
        patches = self.encoder.encode(torch.stack(inputs).to(device)).patches
        return patches.to("cpu", torch.bfloat16)

    def _write(self, keys: list[str], tokens: Tensor) -> None:
        checksums = [_checksum(row) for row in tokens]
        # Numbered after those known here, not by a clock, which may be set back.
        number = 1 + max((_number(name) for name in self._read_shards), default=0)
        shard = self.folder / f"{number:020d}-{secrets.token_hex(4)}.safetensors"
        facts = {
            "format": FORMAT,
            "encoder": self.fingerprint,
            "images": json.dumps(keys),
            "checksums": json.dumps(checksums),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(shard) as partial:
                save_file({"patches": tokens.contiguous()}, partial, metadata=facts)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"patch tokens cannot be written ({error})",
                where=self.folder,
                remedy="Free space, or set data.cache_folder to another disk",
                kind="cache_not_written",
            ) from error
        self._read_shards.add(shard.name)
        for row, (key, checksum) in enumerate(zip(keys, checksums, strict=True)):
            self._places[key] = _Place(shard, row, checksum)

    def _check_space(self, images: int) -> None:
        needed = images * self.bytes_per_image
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise DataError(
                f"the folder of patch tokens cannot be made ({error.strerror or error})",
                where=self.folder,
                remedy="Correct the rights, or set data.cache_folder to another disk",
                kind="cache_not_written",
            ) from error
        if needed > free:
            raise DataError(
                f"patch tokens of {images} images take {size_text(needed)}, "
                f"{size_text(free)} are free",
                where=self.folder,
                remedy="Set data.cache_folder to a larger disk, or cache_features=false",
                kind="disk_full",
            )


def _number(name: str) -> int:
    """The place of a shard among all, from its name."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _checksum(tokens: Tensor) -> int:
    return zlib.crc32(tokens.contiguous().view(torch.uint8).numpy().data)

"""A safetensors file that is written piece by piece, resumes after a kill, and needs no memory.

Rows are appended to a folder beside the file, ``.NAME.unfinished``: each tensor has a file there,
and a journal says, for each batch, how far all of them are. In the end the first tensor's file
gets the header, for which room was left, the others are appended to it, and it is renamed. So the
disk holds the large tensor once. The result is read as any safetensors file is, and carries the
checksums of :mod:`llava_rad.files`.
"""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rad.errors import DataError, WeightsError
from llava_rad.files import checksum, flush, read_sealed, write_sealed
from llava_rad.outputs import cannot_write
from llava_rad.safetensors_writer import DTYPES, TensorLayout, header, torch_dtype, write_whole
from llava_rad.tensor_files import CHECKSUMS, seal_of

if TYPE_CHECKING:
    import torch

# A header of more bytes is refused by readers.
_LARGEST_HEADER = 100_000_000
_BLOCK = 1 << 24
_FLUSH_BYTES = 1 << 28


class TensorStream:
    """Rows of several tensors on their way into one safetensors file.

    Args:
        file: that is to be written.
        identity: what the rows depend on, by name; rows written with something else are not gone
            on with.
        names: of the tensors, the largest first.
        metadata_room: bytes that the metadata of the finished file may take.
        begin_anew: throw away what an earlier run has left.

    Attributes:
        done: what :meth:`append` was told of the batches that are there.

    Raises:
        DataError: an earlier run with another identity left its rows here (kind ``other_run``), or
            they are damaged, or nothing can be written.
    """

    def __init__(
        self,
        file: str | Path,
        identity: Mapping[str, Any],
        names: Sequence[str],
        metadata_room: int,
        *,
        begin_anew: bool = False,
    ) -> None:
        self.file = Path(os.path.realpath(file))
        self.folder = self.file.with_name(f".{self.file.name}.unfinished")
        self.done: list[Any] = []
        self._names = list(names)
        self._room = -(-(metadata_room + 1024 * len(names)) // 8) * 8
        if self._room > _LARGEST_HEADER:
            raise DataError(
                "the names of the images are more than a safetensors file can hold",
                where=file,
                remedy="Encode them in several files",
                kind="too_many",
            )
        self._batches: list[dict[str, Any]] = []
        self._unflushed = 0
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack, self._told():
            if begin_anew and self.folder.exists():
                shutil.rmtree(self.folder)
            self._open_folder(dict(identity), stack)
            self._stack = stack.pop_all()

    def _open_folder(self, identity: dict[str, Any], stack: contextlib.ExitStack) -> None:
        record = self.folder / "run.json"
        if record.exists():
            try:
                before = read_sealed(record)
            except DataError as error:
                raise self._damaged(record) from error
            differing = [
                f"{name}: {before.get(name)} there, {identity.get(name)} now"
                for name in sorted(before.keys() | identity.keys())
                if before.get(name) != identity.get(name)
            ]
            if differing:
                raise DataError(
                    f"an unfinished run of other settings is here ({'; '.join(differing)})",
                    where=self.folder,
                    remedy="Give its settings again, choose another --output, or begin anew with "
                    "--overwrite",
                    kind="other_run",
                )
        else:
            self.folder.mkdir(exist_ok=True)
            write_sealed(record, identity)
        kept = self._read_journal()
        self._journal = stack.enter_context((self.folder / "journal").open("ab", buffering=0))
        self._journal.truncate(kept)
        self._files = {
            name: stack.enter_context((self.folder / name).open("ab", buffering=0))
            for name in self._names
        }
        sizes = self._sizes()
        for name, opened in self._files.items():
            room = self._offset(name)
            if os.fstat(opened.fileno()).st_size < sizes[name] + room * bool(self._batches):
                raise self._damaged(self.folder / name)
            opened.truncate(sizes[name] + room)

    def _offset(self, name: str) -> int:
        """Bytes before the rows: the first tensor's file becomes the whole."""
        return 8 + self._room if name == self._names[0] else 0

    def _sizes(self) -> dict[str, int]:
        return {n: sum(b["bytes"].get(n, 0) for b in self._batches) for n in self._names}

    def _read_journal(self) -> int:
        """Bytes of the journal that count; what follows was cut off."""
        path, kept = self.folder / "journal", 0
        if not path.exists():
            return 0
        with path.open("rb") as file:
            for line in file:
                try:
                    crc, _, content = line.partition(b" ")
                    if not line.endswith(b"\n") or crc.decode() != checksum(content):
                        break
                    batch = json.loads(content)
                except ValueError:
                    break
                self._batches.append(batch)
                self.done.append(batch["about"])
                kept += len(line)
        return kept

    def append(self, rows: Mapping[str, "torch.Tensor"] | None, about: Any) -> None:
        """Add rows to all tensors; from then on a kill does not lose them.

        Args:
            rows: [rows, ...] of each name, or None for a batch without any.
            about: kept in :attr:`done`.

        Raises:
            DataError: they cannot be written, or the folder is gone.
        """
        import torch

        batch: dict[str, Any] = {"about": about, "rows": 0, "bytes": {}, "crc": {}}
        with self._told():
            for name, tensor in (rows or {}).items():
                whole = tensor.detach().cpu().contiguous()
                kind = [DTYPES[str(whole.dtype)], list(whole.shape[1:])]
                if self._batches and self._kind(name) not in (None, kind):
                    raise WeightsError("rows of different shapes", where=name)
                content = whole.view(-1).view(torch.uint8).numpy().data
                write_whole(self._files[name], content)
                batch["rows"] = whole.shape[0]
                batch["bytes"][name] = len(content)
                batch["crc"][name] = checksum(content)
                batch.setdefault("kind", {})[name] = kind
                self._unflushed += len(content)
            if self._unflushed > _FLUSH_BYTES:
                self._unflushed = 0
                for opened in self._files.values():
                    os.fsync(opened.fileno())
            line = json.dumps(batch).encode() + b"\n"
            write_whole(self._journal, checksum(line).encode() + b" " + line)
            if not (self.folder / "journal").exists():
                raise FileNotFoundError(2, "the folder was deleted meanwhile")
        self._batches.append(batch)
        self.done.append(about)

    def _kind(self, name: str) -> Any:
        return next((b["kind"][name] for b in self._batches if name in b.get("kind", {})), None)

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return sum(batch["rows"] for batch in self._batches)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Make the file of the rows; the folder is gone then.

        Args:
            metadata: texts for the file's header.

        Raises:
            DataError: what lies on the disk is damaged, or the disk refuses.
        """
        with self._told():
            sums = {name: self._checked(name) for name in self._names}
            about = {"format": "pt", **metadata}
            about[CHECKSUMS] = json.dumps({"tensors": sums, "all": seal_of(sums, about)})
            text = header(
                [(name, self._layout(name)) for name in self._names], about, room=self._room
            )
            if len(text) > self._offset(self._names[0]):
                raise WeightsError("the header outgrew its room", where=self.file)
            first, *others = self._names
            whole = self._files[first]
            for name in others:
                for block in _blocks(self.folder / name, 0, self._sizes()[name]):
                    write_whole(whole, block)
            with (self.folder / first).open("r+b") as opened:
                opened.write(text)
            self._stack.close()
            flush(self.folder / first)
            if self.file.exists():
                (self.folder / first).chmod(self.file.stat().st_mode & 0o777)
            (self.folder / first).replace(self.file)
            flush(self.file.parent)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _layout(self, name: str) -> TensorLayout:
        dtype, shape = self._kind(name)
        return TensorLayout(torch_dtype(dtype), [self.rows, *shape])

    def _checked(self, name: str) -> str:
        """The tensor's checksum, read from the disk and compared with the batches'."""
        layout = self._layout(name)
        start = zlib.crc32(f"{layout.dtype} {layout.shape}".encode())
        offset = self._offset(name)
        for batch in self._batches:
            size, crc = batch["bytes"].get(name, 0), 0
            for block in _blocks(self.folder / name, offset, size):
                crc = zlib.crc32(block, crc)
                start = zlib.crc32(block, start)
            if size and f"{crc:08x}" != batch["crc"][name]:
                raise self._damaged(self.folder / name)
            offset += size
        return f"{start:08x}"

    def discard(self) -> None:
        """Throw the rows away."""
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave the rows for the next run; harmless after :meth:`finish`."""
        self._stack.close()

    def __enter__(self) -> "TensorStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.file, error) from error

    def _damaged(self, path: Path) -> DataError:
        return DataError(
            "what an unfinished run left is damaged",
            where=path,
            remedy="Begin anew with --overwrite",
            kind="damaged_file",
        )


def _blocks(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while size > 0:
            block = file.read(min(_BLOCK, size))
            if not block:
                return
            size -= len(block)
            yield block

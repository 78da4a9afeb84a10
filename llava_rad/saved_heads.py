"""Files of what is learnt on frozen tokens: tensors, and plain values in the header."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llava_rad.errors import LlavaRadError, WeightsError
from llava_rad.readers import parse_json
from llava_rad.tensor_files import read_tensors_and_metadata, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_Head = TypeVar("_Head")


def save_head(
    file: Path, mark: str, tensors: Mapping[str, "Tensor"], values: Mapping[str, Any]
) -> None:
    """Write a safetensors file that :func:`load_head` reads back.

    Args:
        file: to write.
        mark: names the kind of head.
        tensors: by name.
        values: JSON beside them.
    """
    write_tensors(tensors, file, metadata={mark: json.dumps(values)})


def load_head(
    file: Path,
    mark: str,
    make: Callable[[dict[str, "Tensor"], dict[str, Any]], _Head],
    *,
    what: str,
    remedy: str,
    kind: str,
) -> _Head:
    """Read what :func:`save_head` wrote.

    Args:
        file: to read.
        mark: of the kind that it must be.
        make: the head of its tensors and values; whatever they lack or do not fit, it may raise.
        what: the kind, in the message.
        remedy: in the message.
        kind: of the error.

    Raises:
        WeightsError: the file holds no such head, or is damaged.
    """
    try:
        tensors, metadata = read_tensors_and_metadata(file)
        return make(tensors, parse_json(metadata[mark], where=file))
    except (KeyError, TypeError, ValueError, RuntimeError, LlavaRadError) as error:
        reason = error.what if isinstance(error, LlavaRadError) else error
        raise WeightsError(
            f"not a saved {what} ({reason})", where=file, remedy=remedy, kind=kind
        ) from error

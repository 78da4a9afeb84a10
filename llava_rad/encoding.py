"""Write the tokens an encoder makes of images to a safetensors file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import LlavaRadError
from llava_rad.files import write_tensors
from llava_rad.images import load_radiograph
from llava_rad.names import escape_name


def encode_images(
    encoder: ImageEncoder,
    paths: Sequence[str],
    *,
    batch_size: int = 8,
    frame: int | None = None,
) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor] | LlavaRadError]]:
    """Encode image files in order.

    Args:
        encoder: from :func:`llava_rad.load_encoder`.
        paths: image files.
        batch_size: images encoded together.
        frame: which picture of files that hold several, see ``load_radiograph``.

    Yields:
        Each path with (CLS [dim], patch tokens [tokens, dim]), or with the error that kept it
        from being read.
    """
    parameter = next(encoder.parameters())
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        results: list[torch.Tensor | LlavaRadError] = []
        for path in batch:
            try:
                rendering = encoder.preprocessing.rendering
                picture = load_radiograph(path, rendering=rendering, frame=frame)
                results.append(encoder.preprocessing(picture))
            except LlavaRadError as error:
                results.append(error)
        inputs = [r for r in results if isinstance(r, torch.Tensor)]
        tokens: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
        if inputs:
            with torch.inference_mode():
                out = encoder.encode(torch.stack(inputs).to(parameter.device))
            tokens = iter(zip(out.cls.cpu(), out.patches.cpu(), strict=True))
        for path, result in zip(batch, results, strict=True):
            yield path, result if isinstance(result, LlavaRadError) else next(tokens)


def write_tokens(
    file: Path, encoder: ImageEncoder, tokens: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Write ``cls`` [images, dim] and ``patches`` [images, tokens, dim].

    The file's metadata holds ``images`` (their paths in order, JSON; names that are no UTF-8 as
    :mod:`llava_rad.names` says), ``encoder`` (its name), ``fingerprint`` and ``grid`` (rows and
    columns of the patches, JSON).
    """
    size = encoder.preprocessing.image_size
    write_tensors(
        {
            "cls": torch.stack([c for c, _ in tokens.values()]),
            "patches": torch.stack([p for _, p in tokens.values()]),
        },
        file,
        metadata={
            "images": json.dumps([escape_name(path) for path in tokens], ensure_ascii=False),
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint(),
            "grid": json.dumps(encoder.grid(size, size)),
        },
    )

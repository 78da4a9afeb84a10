"""Pictures through an encoder, batch by batch, each with its tokens or its error."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch

from llava_rad.errors import LlavaRadError
from llava_rad.images import PictureSource, load_radiograph

if TYPE_CHECKING:
    from llava_rad.encoders.base import ImageEncoder

_Source = TypeVar("_Source", bound=PictureSource)


def encode_images(
    encoder: "ImageEncoder",
    images: Iterable[_Source],
    *,
    batch_size: int = 8,
    frame: int | None = None,
) -> Iterator[tuple[_Source, tuple[torch.Tensor, torch.Tensor] | LlavaRadError]]:
    """Encode pictures in order.

    Args:
        encoder: from :func:`llava_rad.load_encoder`.
        images: image files, or what else :func:`llava_rad.load_radiograph` takes.
        batch_size: images encoded together.
        frame: which picture of files that hold several, see ``load_radiograph``.

    Yields:
        Each image with (CLS [dim], patch tokens [tokens, dim]) on the CPU, or with the error that
        kept it from being read.
    """
    parameter = next(encoder.parameters())
    remaining = iter(images)
    while batch := list(islice(remaining, batch_size)):
        results: list[torch.Tensor | LlavaRadError] = []
        for image in batch:
            try:
                rendering = encoder.preprocessing.rendering
                picture = load_radiograph(image, rendering=rendering, frame=frame)
                results.append(encoder.preprocessing(picture))
            except LlavaRadError as error:
                results.append(error)
        inputs = [r for r in results if isinstance(r, torch.Tensor)]
        tokens: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
        if inputs:
            with torch.inference_mode():
                out = encoder.encode(torch.stack(inputs).to(parameter.device))
            tokens = iter(zip(out.cls.cpu(), out.patches.cpu(), strict=True))
        for image, result in zip(batch, results, strict=True):
            yield image, result if isinstance(result, LlavaRadError) else next(tokens)

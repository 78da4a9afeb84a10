"""The project's preprocessing as an image processor of transformers."""

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from llava_rad.encoders import Preprocessing
from llava_rad.errors import ConfigError, ImageError
from llava_rad.images import Radiograph, load_radiograph

# In a picture's notes: it is a radiograph's 8-bit rendering already, of this kind.
_RENDERED = "llava_rad_rendering"


class LlavaRadImageProcessor(BaseImageProcessor):
    """From radiographs to ``pixel_values``, number for number as everywhere in this project.

    Files are read by :func:`llava_rad.load_radiograph`, DICOM included. Pictures in memory go the
    same way: a PIL image, and an array or tensor of whole numbers, [height, width],
    [height, width, 3] or [3, height, width].

    Args:
        settings: what :meth:`~llava_rad.encoders.Preprocessing.to_dict` gives.

    Example:
        >>> import numpy as np
        >>> from llava_rad.encoders import RAD_DINO
        >>> processor = LlavaRadImageProcessor(**RAD_DINO.to_dict())
        >>> image = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
        >>> processor(image, return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 518, 518])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 (as transformers declares it)

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.preprocessing = Preprocessing.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``preprocessor_config.json``."""
        return {**self.preprocessing.to_dict(), "image_processor_type": type(self).__name__}

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Read what is named, and render what is not.

        Args:
            image_url_or_urls: a path, an address (``https:``, or ``data:`` with a file in base64),
                the bytes of a file, a picture, a radiograph; or a list of them, nested or not.

        Returns:
            8-bit gray pictures, nested in the same way.

        Raises:
            ImageError: it is no picture, or cannot be read.
        """
        given = image_url_or_urls
        if isinstance(given, list | tuple):
            return [self.fetch_images(one) for one in given]
        if isinstance(given, Image.Image) and _RENDERED in given.info:
            return given
        if isinstance(given, str) and given.startswith(("http://", "https://")):
            given = super().fetch_images(given)
        rendering = self.preprocessing.rendering
        if not isinstance(given, Radiograph):
            named = isinstance(given, str | os.PathLike) and not str(given).startswith("data:")
            name = None if named else f"<{type(image_url_or_urls).__name__}>"
            source = given if named or isinstance(given, bytes) else _picture(given)
            given = load_radiograph(source, rendering=rendering, name=name)
        if given.rendering != rendering:
            raise ConfigError(
                f"the radiograph was rendered with '{given.rendering}', the encoder was trained "
                f"with '{rendering}'",
                where=given.source,
                remedy=f"Use load_radiograph(..., rendering='{rendering}')",
                kind="other_rendering",
            )
        picture = Image.fromarray(given.pixels)
        picture.info[_RENDERED] = rendering
        return picture

    def preprocess(
        self, images: Any, return_tensors: str | None = None, **settings: Any
    ) -> BatchFeature:
        """Make the encoder's input.

        Args:
            images: as :meth:`fetch_images` takes them.
            return_tensors: ``"pt"`` or ``"np"``; None for a list of arrays.
            settings: of other image processors; these are fixed here.

        Returns:
            ``pixel_values``, float32 [images, 3, image_size, image_size].

        Raises:
            ImageError: something is no picture, or cannot be read.
            ConfigError: a setting is given.
        """
        changed = sorted(name for name, value in settings.items() if value is not None)
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} cannot be chosen: images are prepared as in training",
                where="image processor",
                remedy="Leave it out",
            )
        pictures = _flat(self.fetch_images(images))
        made = [self.preprocessing(np.asarray(picture)) for picture in pictures]
        return BatchFeature(
            {"pixel_values": torch.stack(made).numpy() if made else []}, tensor_type=return_tensors
        )


def _flat(images: Any) -> list[Any]:
    if not isinstance(images, Sequence):
        return [images]
    return [picture for one in images for picture in _flat(one)]


def _picture(given: Any) -> bytes | Image.Image | np.ndarray:
    """What :func:`load_radiograph` takes: the file of a ``data:`` address, or the picture."""
    try:
        if isinstance(given, str):
            return base64.b64decode(given.partition(",")[2], validate=True)
    except ValueError as error:
        raise _no_picture(given, str(error)) from error
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "bu" or given.ndim not in (2, 3):
            raise _no_picture(given, f"{given.dtype}, {given.ndim} dimensions")
        channels_first = given.ndim == 3 and given.shape[0] == 3 and given.shape[-1] not in (1, 3)
        return np.moveaxis(given, 0, -1) if channels_first else given
    if not isinstance(given, Image.Image):
        raise _no_picture(given, "neither a file nor pixels")
    return given


def _no_picture(given: Any, why: str) -> ImageError:
    return ImageError(
        f"a {type(given).__name__} is no picture that can be read ({why})",
        remedy="Give a path, a PIL image, or an array of uint8 or uint16 [height, width]",
        kind="unreadable",
    )

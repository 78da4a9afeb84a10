"""The size of a picture, from its header alone."""

from dataclasses import dataclass
from pathlib import Path

from llava_rad.images.dicom import looks_like_dicom, open_dicom
from llava_rad.images.dicom_header import pixel_ratio_of, pixel_spacing_of, with_functional_groups
from llava_rad.images.dicom_values import required_integer
from llava_rad.images.load import content_of, image_errors, require_raster
from llava_rad.images.pixel_shape import square_size
from llava_rad.images.radiograph import Notes
from llava_rad.images.raster import raster_size


@dataclass(frozen=True)
class Geometry:
    """How the pixels of a file lie in its picture.

    Attributes:
        shape: rows and columns of the picture, as ``Radiograph.pixels`` has them.
        stored: rows and columns as the file stores them, turned as it is seen.
    """

    shape: tuple[int, int]
    stored: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Rows and columns of the picture to one as stored, as ``Radiograph.scale``."""
        return self.shape[0] / self.stored[0], self.shape[1] / self.stored[1]


def geometry_of(path: str | Path) -> Geometry:
    """Read the size of a picture without decoding it.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    with image_errors(str(path)):
        data = content_of(path)
        if not looks_like_dicom(data):
            require_raster(data, str(path))
            size = raster_size(data)
            return Geometry(size, size)
        header = open_dicom(data).header
        stored = required_integer(header, "Rows"), required_integer(header, "Columns")
        header = with_functional_groups(header, 1)
        ratio = pixel_ratio_of(header, pixel_spacing_of(header, Notes()))
        return Geometry(square_size(stored, ratio), stored)

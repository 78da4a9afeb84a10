"""Reading chest X-ray files: DICOM, PNG, JPEG and TIFF become one 8-bit grayscale radiograph.

``load_radiograph`` is the one way in. It decides by content what a file is, undoes the way the
file stores its gray values (``dicom*``, ``raster``), renders them in 8 bits with bones bright
(``photometric``) and returns a ``Radiograph`` that also says which facts and repairs were used.
Pictures that are in memory already go through the same
door. ``load_mask`` reads masks through the same door. Every failure is an
``llava_rad.errors.ImageError``.
"""

from llava_rad.images.geometry import Geometry, geometry_of
from llava_rad.images.load import PictureSource, is_picture_source, load_radiograph
from llava_rad.images.mask import load_mask
from llava_rad.images.radiograph import Radiograph, Rendering
from llava_rad.views import view_of

__all__ = [
    "Geometry",
    "PictureSource",
    "Radiograph",
    "Rendering",
    "geometry_of",
    "is_picture_source",
    "load_mask",
    "load_radiograph",
    "view_of",
]

"""Pages of HTML: self-contained, without scripts, readable in the dark and on a phone."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_page(package: str, template: str, **values: Any) -> str:
    """Fill a template; every value is escaped, and a missing one is an error.

    Args:
        package: where the template lies; it may ``{% include "page.css" %}`` of this package.
        template: its file.
        values: what it shows.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    places = [PackageLoader(package, ""), PackageLoader("llava_rad.appearance", "")]
    environment = Environment(
        loader=ChoiceLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def picture_uri(pixels: NDArray[np.uint8], side: int) -> str:
    """A gray picture as a data URI, a JPEG within ``img src``.

    Args:
        pixels: [height, width].
        side: its longer side at most, in pixels.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()

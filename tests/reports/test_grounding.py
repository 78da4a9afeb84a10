"""Boxes of a text on the image that it was written for."""

from types import SimpleNamespace

import numpy as np

from llava_rad.boxes import Box
from llava_rad.grounded_text import read_grounded
from llava_rad.reports.boxes import grounding

TEXT = "<obj>A.<box><x1><y1><x2><y2></box><box><x3><y3><x4><y4></box></obj>"


def test_what_rounds_to_no_box_is_none():
    # Beside the padding a hundredth of a pixel of the first box is left.
    left = iter([Box(0.5, 0.1, 0.5001, 0.9), Box(0.25, 0.5, 0.5, 1.0)])
    radiograph = SimpleNamespace(pixels=np.zeros((100, 100)), scale=(1.0, 1.0))
    request = SimpleNamespace(
        images=[SimpleNamespace(role="current_frontal", radiograph=radiograph)]
    )
    processor = SimpleNamespace(
        preprocessing=SimpleNamespace(box_on_image=lambda box, height, width: next(left))
    )
    (place,) = grounding(processor, request, read_grounded(TEXT))
    assert place.boxes == ((25.0, 50.0, 50.0, 100.0),)
    assert place.shares() == [Box(0.25, 0.5, 0.5, 1.0)]

"""Texts to learn with a box for a sentence, in the square that the model's encoder sees."""

from dataclasses import replace

from llava_rad.data import Study
from llava_rad.data.finding_box import of_one_reader
from llava_rad.errors import ModelError
from llava_rad.grounded_text import ground_text
from llava_rad.images import geometry_of
from llava_rad.model import ReportProcessor
from llava_rad.report_training.studies import Split
from llava_rad.reports.request import study_request


def grounded(split: Split, processor: ReportProcessor) -> Split:
    """The split with each text in MAIRA-2's form (:mod:`llava_rad.grounded_text`).

    A sentence has the boxes of the frontal image that the model is shown, those of the first reader
    where several drew them. What the encoder's crop cuts off, it cannot learn.

    Args:
        split: studies with their texts; its boxes are those of the manifest.
        processor: of the model that learns.

    Raises:
        ImageError: the header of an image with boxes cannot be read.
    """
    texts = [
        _text(study, text, processor)
        for study, text in zip(split.studies, split.texts, strict=True)
    ]
    return replace(split, texts=texts)


def _text(study: Study, text: str, processor: ReportProcessor) -> str:
    try:
        shown = study_request(study, processor.template)
    except ModelError:  # no sample either
        return text
    roles = [image.role for image in shown.request.images]
    image = shown.images[roles.index("current_frontal")]
    said = [box for box in of_one_reader(image.boxes) if box.sentence]
    if not said:
        return ground_text(text, ())
    height, width = geometry_of(image.path).shape
    boxes = []
    for found in said:
        box = processor.preprocessing.box_in_square(found.box, height, width)
        if box is not None:
            boxes.append((found.sentence or "", box))
    return ground_text(text, boxes)

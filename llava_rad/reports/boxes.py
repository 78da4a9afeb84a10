"""Where a model says that its findings are: from boxes of its encoder's square to the image."""

from llava_rad.grounded_text import GroundedText
from llava_rad.model import ReportRequest
from llava_rad.model.processor import ReportProcessor
from llava_rad.reports.report import GroundedSentence
from llava_rad.wording import counted, verb


def grounding(
    processor: ReportProcessor, request: ReportRequest, written: GroundedText
) -> tuple[GroundedSentence, ...]:
    """The sentences with boxes on the current frontal image, crop and padding undone.

    Args:
        processor: of the model that wrote the text.
        request: that it was written for; without its pictures no box has a place.
        written: the text as it was read.
    """
    roles = [image.role for image in request.images]
    place = roles.index("current_frontal") if "current_frontal" in roles else 0
    radiograph = request.images[place].radiograph
    if radiograph is None:
        return ()
    height, width = radiograph.pixels.shape
    rows, columns = round(height / radiograph.scale[0]), round(width / radiograph.scale[1])
    found = []
    for phrase in written.phrases:
        mapped = (processor.preprocessing.box_on_image(b, height, width) for b in phrase.boxes)
        placed = (box.in_pixels(columns, rows) for box in mapped if box is not None)
        # What is left of a box beside the padding may be less than the pixels' rounding.
        boxes = tuple(edges for edges in placed if edges[0] < edges[2] and edges[1] < edges[3])
        if boxes:
            found.append(GroundedSentence(phrase.start, phrase.end, place, boxes, columns, rows))
    return tuple(found)


def box_warnings(written: GroundedText) -> tuple[str, ...]:
    """What is said of boxes that could not be read."""
    count = written.malformed
    if not count:
        return ()
    return (
        f"malformed_boxes: {counted(count, 'box', 'boxes')} {verb(count)} left out: no such box",
    )

"""Findings text from what a data set knows of an image: a stand-in for data without reports.

A text is made of statements, each with several wordings. The wording of each and their order are
drawn by a hash of the study id: the same study always gets the same text, and a model learns
neither one fixed sentence nor one fixed order. Studies with such text name the template in
``extra["findings_from"]``, so that it is never taken for a report.

No statement says more than the data set knows. Sizes are words (small, large), as an image alone
holds no millimetres.
"""

import hashlib
from collections.abc import Sequence

TEMPLATE_NAME = "template 2"

#: The wordings of one statement.
Statement = tuple[str, ...]


def compose(statements: Sequence[Statement], study_id: str) -> str:
    """One wording of each statement, in an order of the study's own.

    Args:
        statements: what is to be said.
        study_id: chooses wordings and order.

    Example:
        >>> from llava_rad.data.template import compose
        >>> compose([("The heart is normal.",), ("No effusion.",)], "study 2")
        'No effusion. The heart is normal.'
    """
    said = [
        wordings[_draw(f"{study_id}/{place}") % len(wordings)]
        for place, wordings in enumerate(statements)
    ]
    order = sorted(range(len(said)), key=lambda place: _draw(f"{study_id}/order/{place}"))
    return " ".join(said[place] for place in order)


def _draw(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")

"""What the encoder's heads tell of a study's current frontal image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from llava_rad.model import ReportModel, ReportRequest
from llava_rad.model.training_summary import cell_means
from llava_rad.reports.report import UNLIKE_TRAINING


@dataclass(frozen=True)
class ImageFacts:
    """Beside the text; empty where the model has no heads.

    Attributes:
        observations: name of an observation to its probability, 0 to 1.
        warnings: each ``kind: text``.
    """

    observations: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def facts_of_images(
    model: ReportModel, requests: Sequence[ReportRequest], cls: Tensor, patches: Tensor
) -> list[ImageFacts]:
    """Facts of each request's current frontal image; the heads were made for no other view.

    Args:
        model: whose heads are asked.
        requests: each with its images' roles.
        cls: of all images in the order of the requests, [images, dim].
        patches: of the same, [images, tokens, dim].
    """
    if model.heads.observations is None and model.heads.summary is None:
        return [ImageFacts()] * len(requests)
    places, start = [], 0
    for request in requests:
        roles = [image.role for image in request.images]
        places.append(start + roles.index("current_frontal"))
        start += len(roles)
    cls, patches = cls[places], patches[places]
    return [
        ImageFacts(observations, warnings)
        for observations, warnings in zip(
            _observations(model, cls, patches), _warnings(model, patches), strict=True
        )
    ]


def _observations(model: ReportModel, cls: Tensor, patches: Tensor) -> list[dict[str, float]]:
    head = model.heads.observations
    if head is None:
        return [{} for _ in cls]
    rows = head.probabilities(cls, patches).tolist()
    return [{name: round(p, 4) for name, p in zip(head.names, row, strict=True)} for row in rows]


def _warnings(model: ReportModel, patches: Tensor) -> list[tuple[str, ...]]:
    summary = model.heads.summary
    if summary is None:
        return [() for _ in patches]
    distances = summary.distance(cell_means(patches, model.grid))
    text = (
        f"{UNLIKE_TRAINING}: the frontal image is unlike those that the model was trained on "
        "(distance {:.1f}, at most {:.1f} is usual)"
    )
    return [
        (text.format(distance, summary.threshold),) if distance > summary.threshold else ()
        for distance in distances.tolist()
    ]

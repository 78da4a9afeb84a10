"""A study becomes a request: which of its images and texts a given model is shown, and as what."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from llava_rad.data import Study, StudyImage
from llava_rad.errors import ModelError
from llava_rad.images import Radiograph
from llava_rad.model import PromptTemplate, ReportRequest, RequestImage, Role


@dataclass(frozen=True)
class StudyRequest:
    """A request, and the study's images it shows in the same order.

    Attributes:
        request: for the processor.
        images: the images that were chosen.
        warnings: what was left out or taken for something, each ``kind: text``.
        thumbnails: the images as small JPEG files, where the report is to show them.
        follow: is told all tokens of the report after each one, and says whether to go on.
    """

    request: ReportRequest
    images: tuple[StudyImage, ...]
    warnings: tuple[str, ...]
    thumbnails: tuple[bytes, ...] = ()
    follow: Callable[[Sequence[int]], bool] | None = None


def study_request(
    study: Study,
    template: PromptTemplate,
    radiographs: Mapping[str, Radiograph] | None = None,
) -> StudyRequest:
    """Choose what the model is shown: at most one image a role, in the template's order.

    Views come from the study, else from the file itself. An image whose view nobody states is
    taken for a frontal one and flagged. Roles that the model was not trained with are left out
    and named; without a current frontal image there is no request.

    Args:
        study: with at least one image.
        template: of the model.
        radiographs: pictures by path; without them the request has roles only.

    Raises:
        ModelError: no image that this model can describe.
    """
    chosen: dict[Role, StudyImage] = {}
    warnings: list[str] = []
    for image in study.images:
        view = _view(image, radiographs)
        if view == "unknown":
            warnings.append(f"view_unknown: {image.path} does not state its view, taken as frontal")
        role: Role = "current_lateral" if view == "lateral" else "current_frontal"
        if role not in template.image_lines:
            warnings.append(f"view_not_used: {image.path} is a {view} view, left out")
        elif role in chosen:
            warnings.append(f"image_not_used: {image.path} is a further {view} view, left out")
        else:
            chosen[role] = image
    if "current_frontal" not in chosen:
        views = [f"{i.path} is a {_view(i, radiographs)} view" for i in study.images]
        raise ModelError(
            f"no frontal image to describe ({'; '.join(views[:4]) or 'no image'})",
            where=study.study_id,
            remedy="Give a frontal (PA or AP) radiograph",
            kind="no_frontal",
        )
    prior = study.prior
    if prior is not None and "prior_frontal" in template.image_lines:
        for image in prior.images:
            if _view(image, radiographs) != "lateral":
                chosen["prior_frontal"] = image
                break

    order = [role for role in template.image_lines if role in chosen]
    images = tuple(chosen[role] for role in order)
    request = ReportRequest(
        images=tuple(
            RequestImage(role, radiographs[image.path] if radiographs is not None else None)
            for role, image in zip(order, images, strict=True)
        ),
        indication=study.indication,
        technique=study.technique,
        comparison=study.comparison,
        prior_report=prior.findings if prior is not None else None,
    )
    return StudyRequest(request, images, tuple(warnings))


def images_to_read(study: Study, template: PromptTemplate) -> list[StudyImage]:
    """Images that a model may be shown, as far as the study states their views; each path once."""
    images = [
        image
        for image in study.images
        if image.view != "lateral" or "current_lateral" in template.image_lines
    ]
    if study.prior is not None and "prior_frontal" in template.image_lines:
        images += [image for image in study.prior.images if image.view != "lateral"]
    return list({image.path: image for image in images}.values())


def without_images(study: Study, paths: Container[str]) -> Study:
    """The study without some of its images and its prior's."""
    prior = study.prior
    if prior is not None:
        prior = replace(prior, images=tuple(i for i in prior.images if i.path not in paths))
    images = tuple(image for image in study.images if image.path not in paths)
    return replace(study, images=images, prior=prior)


def _view(image: StudyImage, radiographs: Mapping[str, Radiograph] | None) -> str:
    if image.view != "unknown" or radiographs is None or image.path not in radiographs:
        return image.view
    return radiographs[image.path].view

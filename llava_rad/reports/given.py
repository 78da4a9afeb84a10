"""What a caller gives, as studies: paths, pictures in memory, several views, or studies.

Paths go through the same door as the command line's (:mod:`llava_rad.data.inputs`), so that files
of one study become one study. Pictures in memory get a name that stands for their path.
"""

import logging
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from typing import TypeGuard, cast

from llava_rad.data import ConversionLog, Study, StudyImage
from llava_rad.data.inputs import Unusable, expand_study, try_inputs
from llava_rad.errors import DataError, LlavaRadError, shown
from llava_rad.images import PictureSource, Radiograph, is_picture_source
from llava_rad.images.load import label_of
from llava_rad.names import escape_name
from llava_rad.reports.study import Failure, StudyInMemory
from llava_rad.views import View

#: One study as :meth:`ReportWriter.report` takes it.
Given = PictureSource | Sequence[PictureSource] | Study

_log = logging.getLogger(__name__)


def one_study(given: Given) -> Study:
    """The study that is given.

    Args:
        given: see :meth:`llava_rad.reports.ReportWriter.report`.

    Raises:
        DataError: it is none, or more than one.
    """
    return _Namer().study(given)


def given_studies(inputs: Given | Iterable[Given]) -> Iterator[Study | Failure]:
    """The studies that are given, one after the other.

    Paths in a row are taken together, as the command line takes them; everything else comes as it
    is asked for.

    Args:
        inputs: see :meth:`llava_rad.reports.ReportWriter.reports`.

    Yields:
        Studies, and failures in the place of what is none.
    """
    if isinstance(inputs, Study) or is_picture_source(inputs):
        inputs = [inputs]
    namer = _Namer()
    for are_paths, run in groupby(cast("Iterable[Given]", inputs), _is_path):
        if are_paths:
            log = ConversionLog()
            for found in try_inputs(cast("Iterable[str]", run), log=log):
                yield Failure(found.given, found.error) if isinstance(found, Unusable) else found
            _tell(log)
            continue
        for given in run:
            try:
                yield namer.study(given)
            except LlavaRadError as error:
                yield Failure(error.where or f"<{type(given).__name__}>", error)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


class _Namer:
    """Makes studies, and names for what is in memory that come once."""

    def __init__(self) -> None:
        self._count = 0

    def study(self, given: Given) -> Study:
        if isinstance(given, Study):
            return given
        if is_picture_source(given):
            views = [given]
        elif isinstance(given, Iterable):
            views = list(cast("Iterable[PictureSource]", given))
        else:
            raise _no_study(given)
        if not views or not all(map(is_picture_source, views)):
            raise _no_study(given)
        paths = [os.fspath(view) for view in views if _is_path(view)]
        base = None
        if paths:
            log = ConversionLog()
            base = expand_study(paths, log=log)
            _tell(log)
            if len(paths) == len(views):
                return base
        taken = {image.path for image in base.images} if base else set()
        pictures: dict[str, PictureSource] = {}
        for view in views:
            if not _is_path(view):
                pictures[self._name(view, taken | pictures.keys())] = view
        images = tuple(StudyImage(name, _view(view)) for name, view in pictures.items())
        if base is None:
            name = escape_name(images[0].path)
            return StudyInMemory(name, name, images=images, pictures=pictures)
        known = {f.name: getattr(base, f.name) for f in fields(base) if f.name != "images"}
        return StudyInMemory(**known, images=(*base.images, *images), pictures=pictures)

    def _name(self, picture: PictureSource, taken: Container[str]) -> str:
        label = label_of(picture)
        self._count += 1
        if label.startswith("<") or label in taken:
            return f"{label.removesuffix('>')} {self._count}{'>' * label.endswith('>')}"
        return label


def _view(picture: PictureSource) -> View:
    return cast(View, picture.view) if isinstance(picture, Radiograph) else "unknown"


def _tell(log: ConversionLog) -> None:
    for line in log.summary():
        _log.warning(line)


def _no_study(given: object) -> DataError:
    return DataError(
        f"{shown(given)} is neither a picture, nor a list of the pictures of a study, nor a Study",
        remedy="Give a path, bytes, a picture of Pillow, an array, a Radiograph, a list of the "
        "views of one study, or a Study",
        kind="no_study",
    )

"""What a probe is to predict: a label, or any other fact that a manifest records of an image."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_rad.data.fields import age_band
from llava_rad.errors import ConfigError, DataError
from llava_rad.probing.examples import Example, Examples
from llava_rad.probing.scores import Floats

Kind = Literal["binary", "category", "number"]

AGE_GROUP = 5  # years
_RECORDS = ("sex", "age", "age_group", "view", "view_position", "source", "language")
UNCERTAIN: dict[str, float] = {"unknown": math.nan, "positive": 1.0, "negative": 0.0}


@dataclass(frozen=True)
class Target:
    """One column of targets; NaN where it is unknown.

    Attributes:
        name: of the column.
        kind: ``binary`` has values 0 and 1, ``category`` the index of the class.
        classes: of a category, in their order.
        ordered: whether neighbouring classes are alike.
        train, validation, test: values, [examples] each.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    ordered: bool
    train: Floats
    validation: Floats
    test: Floats


def label_names(examples: Examples) -> list[str]:
    """All labels that the studies have, in the order of the manifest."""
    return list(dict.fromkeys(name for e in examples.all for name in e.study.labels))


def label_targets(
    examples: Examples, labels: Sequence[str] = (), *, uncertain: str = "unknown"
) -> list[Target]:
    """Labels as binary targets.

    Args:
        examples: their studies have the labels.
        labels: their names; if empty, all that have both values in training and test.
        uncertain: what a label of -1 counts as: ``unknown``, ``positive`` or ``negative``.

    Raises:
        ConfigError: ``uncertain`` is none of the three.
        DataError: there is no such label, or the training or test images are all of one value.
    """
    if uncertain not in UNCERTAIN:
        raise ConfigError(f"uncertain is {uncertain!r}", remedy=f"Use {', '.join(UNCERTAIN)}")
    known = label_names(examples)
    if not known:
        raise DataError(
            "no study has labels",
            remedy="Use a manifest of a data set with labels, or predict another column with "
            "eval/attributes.py",
            kind="no_labels",
        )
    chosen = list(labels) or list(known)
    for name in chosen:
        if name not in known:
            raise _no_such("label", name, known)

    def value(example: Example, name: str) -> float:
        stated = example.study.labels.get(name)
        if stated is None:
            return math.nan
        return UNCERTAIN[uncertain] if stated == -1 else float(stated > 0)

    targets = [
        Target(name, "binary", (), False, *_parts(examples, lambda e, n=name: value(e, n)))
        for name in chosen
    ]
    if labels:
        for target in targets:
            _require_both(target)
        return targets
    usable = [target for target in targets if _has_both(target.train) and _has_both(target.test)]
    if not usable:
        _require_both(targets[0])
    return usable


def column_target(examples: Examples, column: str) -> Target:
    """Any recorded fact as a target.

    Args:
        examples: their studies have the column.
        column: ``sex``, ``age`` (years), ``age_group`` (classes of five years), ``view``,
            ``view_position``, ``source``, ``language``, the name of a label, or that of an extra
            fact, which is a number where all its values are numbers and else a category.

    Raises:
        DataError: there is no such column, or it does not vary among the training or test images.
    """
    extra = dict.fromkeys(name for e in examples.all for name in e.study.extra)
    labels = label_names(examples)
    if column not in _RECORDS and column in labels:
        return label_targets(examples, [column])[0]
    if column not in _RECORDS and column not in extra:
        raise _no_such("column", column, [*_RECORDS, *labels, *extra])
    texts = [_text(e, column) for e in examples.all]
    if column == "age" or (column in extra and all(_is_number(t) for t in texts if t)):
        target = Target(
            column,
            "number",
            (),
            True,
            *_parts(examples, lambda e: float(_text(e, column) or math.nan)),
        )
        for name in ("train", "test"):
            values = getattr(target, name)
            if len(np.unique(values[~np.isnan(values)])) < 2:
                raise _constant(column, name)
        return target
    # A class that no training image has cannot be learned; such test images are left out.
    trained = {_text(e, column) for e in examples.train} - {None}
    ordered = column == "age_group"
    classes = sorted((c for c in trained if c), key=_leading_number if ordered else str)
    if len(classes) < 2:
        raise _constant(column, "train")
    index = {name: float(i) for i, name in enumerate(classes)}
    target = Target(
        column,
        "category",
        tuple(classes),
        ordered,
        *_parts(examples, lambda e: index.get(_text(e, column) or "", math.nan)),
    )
    if np.isnan(target.test).all():
        raise _constant(column, "test")
    return target


def _parts(examples: Examples, value) -> tuple[Floats, Floats, Floats]:
    train, validation, test = (
        np.array([value(e) for e in part], dtype=np.float64)
        for part in (examples.train, examples.validation, examples.test)
    )
    return train, validation, test


def _text(example: Example, column: str) -> str | None:
    """The recorded value as a text, or None where it is not known."""
    study, image = example.study, example.image
    if column == "age":
        return None if study.age is None else str(study.age)
    if column == "age_group":
        return None if study.age is None else age_band(study.age, AGE_GROUP)
    if column == "view":
        return None if image.view == "unknown" else image.view
    if column == "view_position":
        return image.view_position
    if column in _RECORDS:
        return getattr(study, column)
    return study.extra.get(column)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _leading_number(group: str) -> int:
    return int(group.split("-")[0])


def _has_both(values: Floats) -> bool:
    return bool((values == 0).any() and (values == 1).any())


def _require_both(target: Target) -> None:
    for name in ("train", "test"):
        if not _has_both(getattr(target, name)):
            raise _constant(target.name, name)


def _constant(column: str, split: str) -> DataError:
    return DataError(
        f"{column!r} has fewer than two known values among the {split} images",
        remedy="Choose another column, or a manifest in which it varies",
        kind="constant_target",
    )


def _no_such(what: str, name: str, known) -> DataError:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return DataError(
        f"there is no {what} {name!r}",
        remedy=f"{hint}There are {', '.join(known)}",
        kind=f"no_{what}",
    )

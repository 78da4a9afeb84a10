"""A report: the text, what it was written from, and how people, programs and notebooks get it."""

import base64
import html
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from llava_rad.boxes import Box
from llava_rad.names import escape_name, one_line, plain_text

#: Said once with every report, in text, JSON and on the page.
DISCLAIMER = "Demonstration for research; not for clinical use."

#: Said first where a picture is unlike the training images.
CAUTION = "Unlike the images that this model was trained on: do not rely on what follows."

_LOST = "unreadable: "


#: Kind of the warning of a picture that the model's training images do not resemble.
UNLIKE_TRAINING = "unlike_training"


def cautions_first(warnings: Iterable[str]) -> tuple[str, ...]:
    """The warnings in their order, with what says that the text is worth nothing before others."""
    return tuple(sorted(warnings, key=lambda warning: not _is_caution(warning)))


def _is_caution(warning: str) -> bool:
    return warning.startswith(f"{UNLIKE_TRAINING}: ")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a report, and how sure the model was of its words.

    Attributes:
        text: of the sentence.
        log_probability: mean natural logarithm of its tokens' probabilities, each given the images
            and the tokens before; 0 is certain. It says how the model judged its words, not
            whether they are true.
    """

    text: str
    log_probability: float

    def __post_init__(self) -> None:
        # JavaScript writes 0 for -0.0: what comes back from a page must be what went there.
        object.__setattr__(self, "log_probability", float(self.log_probability) + 0.0)


@dataclass(frozen=True)
class GroundedSentence:
    """A sentence of a report, and where on an image the model says that its finding is.

    Attributes:
        start: its first character in the findings.
        end: the one after its last.
        image: place of the image among the report's, from 0.
        boxes: left, upper, right and lower edge of each, in pixels of the image as it is stored.
        width: of the image in pixels.
        height: of the image in pixels.
    """

    start: int
    end: int
    image: int
    boxes: tuple[tuple[float, float, float, float], ...]
    width: int
    height: int

    def shares(self) -> list[Box]:
        """The boxes in shares of the image's width and height."""
        return [Box.of_pixels(*b, width=self.width, height=self.height) for b in self.boxes]


@dataclass(frozen=True)
class Report:
    """A generated report.

    ``print`` writes it as ``llava-rad report`` does, and a notebook shows it with its pictures.

    Attributes:
        findings: the text.
        model: name of the model that wrote it.
        tokens: how many tokens it took, the end token not counted.
        truncated: the text reached ``max_new_tokens`` before its end.
        repetitive: it goes on repeating a phrase; do not trust it.
        study_id: of the study it belongs to, if that was given.
        images: paths of the images that the model was shown, if they were given.
        roles: what each of them was shown as, such as ``"current_frontal"``.
        warnings: what was noticed on the way, each ``kind: text``.
        observations: name of an observation to its probability, 0 to 1, where the model gives them.
        sentences: of the findings with their mean log-probability; empty with beam search. The
            mapping that :meth:`to_dict` makes of one may stand for it.
        grounding: the sentences with boxes, of a model that writes them; likewise.
        disclaimer: one line that goes wherever the text goes.
        thumbnails: the images as small JPEG files; empty where nobody is to see them.

    Example:
        >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
        >>> report = model.report("chest.dcm", settings=short)
        >>> print(report)  # doctest: +ELLIPSIS
        The ...
        Shown as current frontal: chest.dcm
        Note: cut off at max_new_tokens.
        Note: collimator: the rectangular collimator was ignored: it leaves 2.0% of the picture
        [llava-rad-mini] Demonstration for research; not for clinical use.
        >>> report.to_dict()["roles"]
        ['current_frontal']
    """

    findings: str
    model: str
    tokens: int
    truncated: bool
    repetitive: bool
    study_id: str | None = None
    images: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    observations: Mapping[str, float] = field(default_factory=dict)
    sentences: tuple[Sentence, ...] = ()
    grounding: tuple[GroundedSentence, ...] = ()
    disclaimer: str = field(default=DISCLAIMER)
    thumbnails: tuple[bytes, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        known = (s if isinstance(s, Sentence) else Sentence(**s) for s in self.sentences)
        object.__setattr__(self, "sentences", tuple(known))
        places = (g if isinstance(g, GroundedSentence) else _grounded(**g) for g in self.grounding)
        object.__setattr__(self, "grounding", tuple(places))

    @property
    def boxes(self) -> list[tuple[str, GroundedSentence]]:
        """The sentences that have boxes, with their texts."""
        return [(self.findings[place.start : place.end], place) for place in self.grounding]

    @property
    def unlike_training(self) -> bool:
        """A picture is unlike the images that the model was trained on: do not rely on the text."""
        return any(map(_is_caution, self.warnings))

    @property
    def empty(self) -> bool:
        """The model wrote no text at all."""
        return not self.findings

    @property
    def lost(self) -> tuple[str, ...]:
        """The warnings of images that cannot be read and were left out."""
        return tuple(warning for warning in self.warnings if warning.startswith(_LOST))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; paths are written as :mod:`llava_rad.names` says."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "thumbnails"}
        values["images"] = [escape_name(path) for path in self.images]
        values["roles"] = list(self.roles)
        values["observations"] = dict(self.observations)
        values["sentences"] = [asdict(sentence) for sentence in self.sentences]
        if self.grounding:
            values["grounding"] = [
                {**asdict(place), "boxes": [list(box) for box in place.boxes]}
                for place in self.grounding
            ]
        else:  # most models write none
            del values["grounding"]
        values["warnings"] = [plain_text(warning) for warning in self.warnings]
        return values

    def to_text(self, *, heading: bool = False) -> str:
        """The text for people: findings, observations, what was shown, notes, model, disclaimer.

        Args:
            heading: begin with the study's id and end with a blank line, as one of several.
        """
        lines = [one_line(f"== {self.study_id}")] if heading else []
        lines += [CAUTION, ""] * self.unlike_training
        seen = [f"{name}: probability {p:.2f}" for name, p in self.observations.items()]
        lines += [self._said, "", *self.places(), *seen, *self._shown()]
        lines += [*self._notes(), self._ending]
        return "\n".join(lines) + ("\n" if heading else "")

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        """The same with pictures; everything that is not ours is escaped."""
        captions = (self._shown() or [""] * len(self.thumbnails)) if self.thumbnails else []
        pictures = [
            '<figure style="margin:0;max-width:20em"><div style="position:relative">'
            f'<img alt="{html.escape(caption)}" style="display:block;width:100%" '
            f'src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
            f"{self._frames(place)}</div>"
            f'<figcaption style="font-size:small">{html.escape(caption)}</figcaption></figure>'
            for place, (picture, caption) in enumerate(zip(self.thumbnails, captions, strict=True))
        ]
        shown = [] if pictures else self._shown()
        listed = [*self.places(), *shown, *self._notes()]
        notes = "".join(f"<li>{html.escape(line)}</li>" for line in listed)
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:1em">'
            + "".join(pictures)
            + '<div style="flex:1;min-width:16em;max-width:45em">'
            + f"<p><strong>{CAUTION}</strong></p>" * self.unlike_training
            + f'<p style="white-space:pre-line">{html.escape(self._said)}</p>'
            + (f'<ul style="font-size:small">{notes}</ul>' if notes else "")
            + f'<p style="font-size:small"><em>{html.escape(self._ending)}</em></p></div></div>'
        )

    def _frames(self, image: int) -> str:
        """The boxes on one of the pictures, each with its sentence as a title."""
        return "".join(
            '<span style="position:absolute;box-sizing:border-box;border:2px solid #4cc3d9;'
            f"left:{100 * box.x_min:.2f}%;top:{100 * box.y_min:.2f}%;"
            f"width:{100 * (box.x_max - box.x_min):.2f}%;"
            f'height:{100 * (box.y_max - box.y_min):.2f}%" title="{html.escape(sentence)}"></span>'
            for sentence, place in self.boxes
            if place.image == image
            for box in place.shares()
        )

    def places(self) -> list[str]:
        """The boxes in words, for text and whoever does not see them."""
        return [
            one_line(
                f"Box: {sentence} {box.x_min:.0%} to {box.x_max:.0%} from the left edge, "
                f"{box.y_min:.0%} to {box.y_max:.0%} from the top"
            )
            for sentence, place in self.boxes
            for box in place.shares()
        ]

    @property
    def _said(self) -> str:
        return plain_text(self.findings) or "(no text)"

    @property
    def _ending(self) -> str:
        return f"[{self.model}] {self.disclaimer}"

    def _shown(self) -> list[str]:
        return [
            one_line(f"Shown as {role.replace('_', ' ')}: {escape_name(path)}")
            for path, role in zip(self.images, self.roles, strict=True)
        ]

    def _notes(self) -> list[str]:
        notes = ["cut off at max_new_tokens."] * self.truncated
        notes += ["the text repeats itself; do not rely on it."] * self.repetitive
        return [one_line(f"Note: {note}") for note in (*notes, *self.warnings)]


def _grounded(boxes: Iterable[Iterable[float]], **values: int) -> GroundedSentence:
    edges = (tuple(map(float, box)) for box in boxes)
    return GroundedSentence(boxes=tuple((a, b, c, d) for a, b, c, d in edges), **values)

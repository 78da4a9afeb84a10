"""What the LLM is asked: images named by a word each, optional context, one instruction."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llava_rad.errors import ConfigError, ModelError, shown
from llava_rad.images import Radiograph
from llava_rad.model.chat import chat_turns

Role = Literal["current_frontal", "current_lateral", "prior_frontal"]
ROLES: tuple[Role, ...] = ("current_frontal", "current_lateral", "prior_frontal")
FIELDS = ("indication", "technique", "comparison", "prior_report")

# Stands in a template for one image.
IMAGE = "<image>"

# What opens or closes a turn where chat formats write text for it: [/INST], <|user|>, and the last
# word of a line where it ends in a colon, as ASSISTANT: or "### Response:" do.
_TURN_MARK = re.compile(r"<\|?[^<>\s]+\|?>|\[/?[A-Z_]+\]|(?:#+ *)?\w+:(?=[ \t]*$)", re.MULTILINE)


@dataclass(frozen=True)
class RequestImage:
    """One image of a request: what it is to the study, and its picture.

    The picture may be left out where the encoder's patch tokens are given instead.
    """

    role: Role
    radiograph: Radiograph | None = None


@dataclass(frozen=True)
class ReportRequest:
    """What is known when a report is asked for: images and optional text.

    Attributes:
        images: in the order in which the prompt shows them.
        indication: why the study was made.
        technique: how it was made.
        comparison: what it was compared with.
        prior_report: findings of the earlier study.
    """

    images: tuple[RequestImage, ...]
    indication: str | None = None
    technique: str | None = None
    comparison: str | None = None
    prior_report: str | None = None


class Ban:
    """Texts that are taken out of other texts.

    Args:
        texts: each is replaced by a blank, longer ones first.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = sorted((text for text in texts if text.strip()), key=len, reverse=True)
        self._firsts = {text[0] for text in self.texts}

    def take_out(self, text: str) -> str:
        """The text without them, in one line of single blanks."""
        words, before = " ".join(text.split()), ""
        # Vocabularies have thousands of special tokens, and texts hardly ever one of them. What is
        # left where one was taken out must not make another.
        while words != before and not self._firsts.isdisjoint(words):
            before = words
            for banned in self.texts:
                words = words.replace(banned, " ")
            words = " ".join(words.split())
        return words


@dataclass(frozen=True)
class PromptTemplate:
    """The wording around images and context; it is saved with the model.

    Attributes:
        before: text before the user's turn, special tokens of the chat format included.
        after: text between the user's turn and the report.
        separator: text between ``after`` and the report's first word.
        stop: the special token that ends a report; None means the tokenizer's EOS.
        stop_texts: texts at which a report is cut, such as the word that opens a next turn.
        image_lines: for each accepted role, its line; ``<image>`` marks the picture.
        image_end: text between an image's line and what follows it.
        field_lines: for each accepted field, its line; ``{text}`` marks the words.
        instruction: the last line of the user's turn.
        instruction_with_indication: takes the place of ``instruction`` where an indication is
            given, with ``{text}`` for it; the indication then has no line of its own.
        report_end: text that ends a report, learnt instead of the stop token where it is given.
    """

    before: str = ""
    after: str = "\n"
    separator: str = ""
    stop: str | None = None
    stop_texts: tuple[str, ...] = ()
    image_lines: Mapping[str, str] = field(
        default_factory=lambda: {
            "current_frontal": f"Frontal image: {IMAGE}",
            "current_lateral": f"Lateral image: {IMAGE}",
            "prior_frontal": f"Prior frontal image: {IMAGE}",
        }
    )
    image_end: str = "\n"
    field_lines: Mapping[str, str] = field(
        default_factory=lambda: {
            "indication": "Indication: {text}",
            "technique": "Technique: {text}",
            "comparison": "Comparison: {text}",
            "prior_report": "Prior report: {text}",
        }
    )
    instruction: str = "Describe the findings of this chest X-ray."
    instruction_with_indication: str | None = None
    report_end: str = ""

    def __post_init__(self) -> None:
        self._check_types()
        for role, line in self.image_lines.items():
            if role not in ROLES:
                raise ConfigError(
                    f"unknown image role '{role}'",
                    where="prompt.image_lines",
                    remedy=f"Known: {', '.join(ROLES)}",
                )
            if line.count(IMAGE) != 1:
                raise ConfigError(
                    f"the line for '{role}' holds {line.count(IMAGE)} of {IMAGE}",
                    where="prompt.image_lines",
                    remedy="Put it there exactly once",
                )
        for name in self.field_lines:
            if name not in FIELDS:
                raise ConfigError(
                    f"unknown field '{name}'",
                    where="prompt.field_lines",
                    remedy=f"Known: {', '.join(FIELDS)}",
                )

    def _check_types(self) -> None:
        """Refuse what is no text: templates come from files."""
        texts: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("before", "after", "separator", "image_end", "instruction", "report_end")
        }
        for name in ("stop", "instruction_with_indication"):
            texts[name] = "" if getattr(self, name) is None else getattr(self, name)
        for name in ("image_lines", "field_lines"):
            lines = getattr(self, name)
            texts |= lines if isinstance(lines, Mapping) else {name: lines}
        texts |= {f"stop_texts {number}": text for number, text in enumerate(self.stop_texts)}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ConfigError(
                    f"{name} is {shown(text)}", where="prompt", remedy="Give it as a text"
                )

    def parts(self, request: ReportRequest, *, special_tokens: Iterable[str] = ()) -> list[str]:
        """The prompt's text cut at each image: one more part than images.

        Args:
            request: images and context; context that is None or blank has no line.
            special_tokens: strings that must not come in through the context; they are taken out.

        Raises:
            ModelError: no image, or an image in a role that the model was not trained with.
        """
        if not request.images:
            raise ModelError("a request needs at least one image", kind="no_image")
        lines = []
        for number, image in enumerate(request.images, 1):
            if image.role not in self.image_lines:
                raise ModelError(
                    f"image {number} is a {image.role.replace('_', ' ')}, which this model was "
                    f"not trained with",
                    remedy=f"It takes: {', '.join(r.replace('_', ' ') for r in self.image_lines)}",
                    kind="image_role",
                )
            lines.append(self.image_lines[image.role].split(IMAGE))

        parts = [self.before]
        for start, end in lines:
            parts[-1] += start
            parts.append(end + self.image_end)
        parts[-1] += self.text(request, special_tokens=special_tokens) + self.after
        return parts

    def text(self, request: ReportRequest, *, special_tokens: Iterable[str] = ()) -> str:
        """What stands after the images: context and instruction, a line each.

        Args:
            request: context that is None or blank has no line.
            special_tokens: see :meth:`parts`.
        """
        ban = self.ban(special_tokens)
        context = {name: ban.take_out(getattr(request, name) or "") for name in FIELDS}
        text = []
        for name in ("prior_report", "indication", "technique", "comparison"):
            replaced = name == "indication" and self.instruction_with_indication is not None
            if context[name] and name in self.field_lines and not replaced:
                text.append(self.field_lines[name].replace("{text}", context[name]))
        if context["indication"] and self.instruction_with_indication is not None:
            text.append(self.instruction_with_indication.replace("{text}", context["indication"]))
        else:
            text.append(self.instruction)

        return "\n".join(text)

    def ban(self, special_tokens: Iterable[str] = ()) -> "Ban":
        """What may not come in through the context.

        Beside the image's mark and the LLM's special tokens, what opens and closes turns in this
        template's own text: some chat formats write plain words for it.
        """
        marks = _TURN_MARK.findall(self.before) + _TURN_MARK.findall(self.after)
        return Ban({IMAGE, *special_tokens, *self.stop_texts, *marks, self.stop or IMAGE})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        values["stop_texts"] = list(self.stop_texts)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PromptTemplate":
        """Inverse of :meth:`to_dict`."""
        return cls(**{**values, "stop_texts": tuple(values.get("stop_texts", ()))})

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **changes: Any) -> "PromptTemplate":
        """The template that fits an LLM: its own chat format, or a plain one if it has none.

        Args:
            tokenizer: of the LLM.
            changes: fields that differ from what the tokenizer says; with ``before`` and
                ``after`` among them its chat format is not looked at.

        Raises:
            ModelError: the chat template cannot be used.
        """
        turns = None if {"before", "after"} <= changes.keys() else chat_turns(tokenizer)
        if turns is None:
            return cls(**changes)
        return cls(
            **{
                "before": turns.before,
                "after": turns.after,
                "separator": turns.separator,
                "stop": turns.stop,
                **changes,
            }
        )


#: The conversation format of Vicuna v1 in LLaVA and LLaVA-Rad, whose tokenizer has no template.
VICUNA_V1: dict[str, Any] = {
    "before": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
    ),
    "after": " ASSISTANT:",
    "separator": " ",
    "stop_texts": ("USER:",),
}

#: How LLaVA-Rad words its request: one unnamed image, with and without an indication.
LLAVA_RAD: dict[str, Any] = {
    **VICUNA_V1,
    "image_lines": {"current_frontal": IMAGE},
    "field_lines": {},
    "instruction": "Provide a description of the findings in the radiology image.",
    "instruction_with_indication": (
        "Provide a description of the findings in the radiology image given the following "
        "indication: {text}"
    ),
}

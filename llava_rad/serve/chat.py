"""OpenAI's chat completions: one message of the user with the images of one study.

The model has one instruction, its own. Of the message's text, lines that begin with
``Indication:``, ``Technique:`` or ``Comparison:`` are shown to it; other text and system messages
are not, and the answer says so. There are no second turns: no model here was trained with them.
"""

import re
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llava_rad.reports import Report
from llava_rad.serve.request_errors import RequestError
from llava_rad.serve.uploads import MOST_FILES, content_of_url

# What would change the answer; other settings of OpenAI's that are not below make no difference.
_CANNOT = {
    "audio", "frequency_penalty", "functions", "logit_bias", "logprobs", "presence_penalty",
    "response_format", "stop", "tools",
}  # fmt: skip
# Commas and opening brackets of a body: few megabytes of empty values take minutes to check.
_MOST_VALUES = 20_000
_FIELD = re.compile(r"\s*(indication|technique|comparison)\s*:\s*(.*)", re.IGNORECASE)


class ImageURL(BaseModel):
    """Where an image is: a ``data:`` address."""

    url: str


class Part(BaseModel):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageURL | None = None


class Message(BaseModel):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = ""


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for a chat completion; what would change the answer and cannot is refused."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "llava-rad-mini",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Indication: cough"},
                            {
                                "type": "image_url",
                                "image_url": {"url": "data:image/png;base64,iVBORw0KGgo..."},
                            },
                        ],
                    }
                ],
            }
        },
    )

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None

    @classmethod
    def parse(cls, body: bytes) -> "ChatRequest":
        """Read a body. Raises RequestError."""
        if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise RequestError(
                f"the body has more than {_MOST_VALUES} values",
                kind="bad_request",
                remedy="Send one message with the images and a short text",
            )
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            # A content is a text or a list of parts: the error that came further tells more.
            first = max(errors, key=lambda found: len(found["loc"]))
            place = ".".join(map(str, first["loc"])) or "the body"
            raise RequestError(
                f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}", kind="bad_request"
            ) from None

    @model_validator(mode="after")
    def _refuse(self) -> "ChatRequest":
        extra = self.model_extra or {}
        given = {name for name, value in extra.items() if value and value != {"type": "text"}}
        if refused := sorted(given & _CANNOT):
            raise ValueError(f"{refused[0]} is not supported, the models write plain reports")
        return self

    @property
    def most_tokens(self) -> int | None:
        """The longest answer, by either of its names."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer


class Asked:
    """What a request asks for: the files of a study, and what is said of it.

    Args:
        request: of a client.

    Attributes:
        files: contents in their order.
        texts: ``indication``, ``technique`` and ``comparison``, where they are given.
        warnings: what is not shown to the model.

    Raises:
        RequestError: it is no question that the models here can answer.
    """

    def __init__(self, request: ChatRequest) -> None:
        turns = [message for message in request.messages if message.role in ("user", "assistant")]
        if len(turns) != 1 or turns[0].role != "user":
            raise RequestError(
                "the conversation has more than one message of the user",
                kind="several_turns",
                remedy="Send one message with the images; the models were trained without a second",
            )
        content = turns[0].content
        parts = [Part(type="text", text=content)] if isinstance(content, str) else content
        addresses = [part.image_url.url if part.image_url else None for part in parts
                     if part.type == "image_url"]  # fmt: skip
        if not addresses:
            raise RequestError(
                "the message has no image",
                kind="no_files",
                remedy="Add a part of the type image_url with a data: address",
            )
        if len(addresses) > MOST_FILES:
            raise RequestError(
                f"the message has {len(addresses)} images",
                kind="too_many_files",
                remedy=f"Send at most {MOST_FILES}",
            )
        self.files = [content_of_url(address) for address in addresses]
        self.texts: dict[str, str] = {}
        unused = len(request.messages) > 1
        for line in "\n".join(p.text for p in parts if p.type == "text").splitlines():
            match = _FIELD.fullmatch(line)
            if match and match[2].strip() and match[1].lower() not in self.texts:
                self.texts[match[1].lower()] = match[2].strip()
            else:
                unused = unused or bool(line.strip())
        self.warnings = (
            ("text_not_used: the model has its own instruction; it is shown lines that begin with "
             "Indication:, Technique: or Comparison:",) if unused else ()
        )  # fmt: skip


class Completion:
    """The answer to one request, whole or in pieces.

    Args:
        name: of the answer.
        model: that answers.
    """

    def __init__(self, name: str, model: str) -> None:
        self._facts = {"id": f"chatcmpl-{name}", "created": int(time.time()), "model": model}

    def whole(self, report: Report, prompt_tokens: int) -> dict[str, Any]:
        """The answer; what a report says beside its text is under ``llava_rad``."""
        message = {"role": "assistant", "content": report.findings}
        choice = {"index": 0, "message": message, "finish_reason": _finish(report)}
        return {
            **self._facts,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(report, prompt_tokens),
            "llava_rad": _beside(report),
        }

    def chunk(self, delta: dict[str, str], **choice: Any) -> dict[str, Any]:
        """A piece of the answer."""
        return {
            **self._facts,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}],
        }

    def last(self, report: Report) -> dict[str, Any]:
        """The piece that ends the answer."""
        return {**self.chunk({}, finish_reason=_finish(report)), "llava_rad": _beside(report)}

    def usage(self, report: Report, prompt_tokens: int) -> dict[str, Any]:
        """The piece after it, where the client wants it."""
        usage = _usage(report, prompt_tokens)
        return {**self._facts, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def _finish(report: Report) -> str:
    return "length" if report.truncated else "stop"


def _usage(report: Report, prompt_tokens: int) -> dict[str, int]:
    total = prompt_tokens + report.tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": report.tokens,
        "total_tokens": total,
    }


def _beside(report: Report) -> dict[str, Any]:
    values = report.to_dict()
    kept = ("disclaimer", "repetitive", "warnings", "observations", "images", "roles")
    return {name: values[name] for name in kept}

"""What the endpoints' bodies look like, for ``/openapi.json``: they are read as streams."""

from typing import Any

from llava_rad.reports.formats import FORMATS
from llava_rad.reports.report import DISCLAIMER
from llava_rad.serve.chat import ChatRequest

_FILES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "description": "DICOM, PNG, JPEG or TIFF files, the views of one study.",
}
_FRAME = {
    "type": "integer",
    "minimum": 1,
    "description": "Which picture to read of files that hold several.",
}
_MODEL = {"type": "string", "description": "A name of /v1/models; the first one without."}
_FORMAT = {"type": "string", "enum": list(FORMATS), "default": "json"}
_INDICATION = {"type": "string", "description": "Why the study was made.", "example": "cough"}


_ERROR = {
    "error": {
        "message": "file 1: the file is empty. Copy or download the file again.",
        "type": "invalid_request_error",
        "code": "empty_file",
    }
}
_REPORT = {
    "findings": "The lungs are clear. No pleural effusion.",
    "model": "llava-rad-mini",
    "tokens": 12,
    "truncated": False,
    "repetitive": False,
    "study_id": "upload-0f1e2d3c4b5a69788796",
    "images": ["file 1"],
    "roles": ["current_frontal"],
    "warnings": [],
    "observations": {},
    "grounding": [
        {
            "start": 0,
            "end": 20,
            "image": 0,
            "boxes": [[102.5, 80.0, 400.0, 512.0]],
            "width": 1024,
            "height": 1024,
        }
    ],
    "disclaimer": DISCLAIMER,
    "model_hash": "0123456789abcdef",
    "seal": "89abcdef01234567",
}
_EMBEDDING = {
    "model": "llava-rad-mini",
    "encoder": "0123456789abcdef",
    "dim": 3,
    "images": ["file 1"],
    "embeddings": [[0.12, -0.5, 1.75]],
}
_ATTENTION = {
    "sentences": [
        {
            "start": 0,
            "end": 20,
            "share": 0.07,
            "images": [{"grid": [[0.8, 1.2], [1.5, 0.5]], "box": [55.0, 0.0, 1900.0, 1841.0]}],
        }
    ]
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_USAGE = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
_COMPLETION = {
    "id": "chatcmpl-0123456789abcdef",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "llava-rad-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _REPORT["findings"]},
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}


def _form(answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["files", *(["report"] if "report" in fields else [])],
        "properties": {"files": _FILES, **fields},
    }
    return _endpoint({"multipart/form-data": {"schema": schema}}, answer)


def _endpoint(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    wrong = {"application/json": {"example": _ERROR}}
    return {
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            "4XX": {"description": "What is wrong with the request.", "content": wrong},
        },
    }


def _json(example: Any) -> dict[str, Any]:
    return {"application/json": {"example": example}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """A schema that refers to nothing, since it stands inside of another document."""
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(item, definitions) for key, item in value.items() if key != "$defs"}


def _chat() -> dict[str, Any]:
    schema = ChatRequest.model_json_schema()
    body = {"application/json": {"schema": _inlined(schema, schema.get("$defs", {}))}}
    return _endpoint(body, _json(_COMPLETION))


#: Bodies by the name of their endpoint, as FastAPI's ``openapi_extra``.
BODIES: dict[str, dict[str, Any]] = {
    "report": _form(
        {**_json(_REPORT), "text/event-stream": {"example": 'event: text\ndata: {"text": "The"}'}},
        indication=_INDICATION,
        format=_FORMAT,
        stream={"type": "boolean", "default": False},
        frame=_FRAME,
        model=_MODEL,
        max_new_tokens={"type": "integer", "minimum": 1, "description": "Longest report."},
        temperature={"type": "number", "minimum": 0, "description": "0 is deterministic."},
        top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        seed={"type": "integer", "minimum": 0, "example": 0},
    ),
    "document": _form(
        {FORMATS[name].media_type: _BINARY for name in ("pdf", "dicom-sr")},
        report={"type": "string", "description": "JSON of /v1/report, as it came."},
        format=_FORMAT,
        frame=_FRAME,
        indication=_INDICATION,
    ),
    "attention": _form(
        _json(_ATTENTION),
        report={"type": "string", "description": "JSON of /v1/report, as it came."},
        frame=_FRAME,
        indication=_INDICATION,
    ),
    "preview": _form(
        {"image/png": _BINARY},
        frame=_FRAME,
        size={"type": "integer", "minimum": 32, "maximum": 2048, "default": 2048},
        model=_MODEL,
    ),
    "embed": _form(_json(_EMBEDDING), frame=_FRAME, model=_MODEL),
    "chat": _chat(),
}

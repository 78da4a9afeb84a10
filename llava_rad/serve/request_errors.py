"""What goes wrong with a request, as every endpoint says it: a status and one line of JSON."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from llava_rad.errors import ConfigError, DataError, ImageError, LlavaRadError
from llava_rad.extras import MissingExtraError
from llava_rad.names import plain_text

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# The fault of the files that were sent; every other ModelError is the server's own.
_OF_THE_STUDY = {"no_frontal", "no_picture"}


class RequestError(LlavaRadError):
    """A request is refused.

    Args:
        what: went wrong, in one sentence without a final full stop.
        status: of HTTP.
        kind: a short machine-readable name.
        remedy: what the client can do.
        retry_after: seconds until it may try again.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int = 400,
        kind: str,
        remedy: str = "",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy, kind=kind)
        self.status, self.retry_after = status, retry_after


def status_of(error: LlavaRadError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, ImageError | DataError) or error.kind in _OF_THE_STUDY:
        return 422
    if isinstance(error, MissingExtraError):
        return 501
    return 400 if isinstance(error, ConfigError) else 500


def error_values(error: LlavaRadError) -> dict[str, Any]:
    """An error in the form that OpenAI's clients know."""
    status = status_of(error)
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": plain_text(str(error)), "type": kind, "code": error.kind or None}}


def error_response(error: LlavaRadError) -> JSONResponse:
    """The response that tells of an error."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, RequestError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse(error_values(error), status, headers)


def of_http(error: HTTPException) -> RequestError:
    """What the framework refuses: unknown paths and methods."""
    known = {
        404: ("there is no such path", "no_such_path"),
        405: ("the path does not take this method", "wrong_method"),
    }
    what, kind = known.get(error.status_code, ("the request is refused", "bad_request"))
    return RequestError(what, status=error.status_code, kind=kind, remedy="See /openapi.json")


def unexpected() -> RequestError:
    """A defect of ours; its words stay here, they may quote what was sent."""
    return RequestError("the server failed", status=500, kind="server_failed")


def event(name: str, values: Any) -> str:
    """A server-sent event with JSON."""
    return f"event: {name}\n{data(values)}"


def data(values: Any) -> str:
    """A server-sent event without a name, as OpenAI's clients read them."""
    return f"data: {json.dumps(values)}\n\n"

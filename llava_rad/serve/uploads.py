"""Files of a request: read from its body within the limits, held in memory, made into one study.

Names that the client gives its files are not used: they may name patients, and may be any text.
The files are called ``file 1``, ``file 2``, in the order in which they came.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from llava_rad.data.dicom_studies import as_one_study, group_members
from llava_rad.errors import shown
from llava_rad.images.study_header import read_study_header
from llava_rad.reports.study import StudyInMemory
from llava_rad.serve.request_errors import RequestError

#: Views of one study, and fields beside them, that a request may have.
MOST_FILES = 16
MOST_FIELDS = 16
MOST_FIELD_BYTES = 2**18
#: Of an indication, or what else the model is told of a study.
MOST_CHARACTERS = 2000

_Number = TypeVar("_Number", int, float)
_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)


@dataclass(frozen=True)
class Form:
    """What came in a form.

    Attributes:
        files: contents in their order.
        fields: texts by name; empty ones count as absent.
    """

    files: tuple[bytes, ...]
    fields: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """A text, or None."""
        return self.fields.get(name)

    def flag(self, name: str) -> bool:
        """``true`` or ``false``, the latter where nothing is said. Raises RequestError."""
        text = self.fields.get(name, "false").lower()
        if text not in ("true", "false"):
            raise _bad(f"{name} is {shown(text)}", "Use true or false")
        return text == "true"

    def number(self, name: str, kind: type[_Number]) -> _Number | None:
        """A number, or None. Raises RequestError."""
        text = self.fields.get(name)
        try:
            return None if text is None else kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise _bad(f"{name} is {shown(text)}", f"Use {what}") from None


async def read_form(request: Request, fields: Sequence[str], *, most_bytes: int) -> Form:
    """Read a multipart form without touching the disk.

    Args:
        request: its body.
        fields: names of the texts that may be there, beside ``files``.
        most_bytes: of the body, so that no file is larger.

    Raises:
        RequestError: it is no such form, has no file, too many parts, or a field that is unknown or
            given twice.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise _bad("the body is no form", "Send multipart/form-data with the images as files")
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=MOST_FILES,
        max_fields=MOST_FIELDS,
        max_part_size=MOST_FIELD_BYTES,
    )
    parser.spool_max_size = most_bytes + 1  # more never comes, so nothing is spooled to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _bad(f"the form cannot be read ({error.message.rstrip('.')})", "") from None
    except FormParserError:
        raise _bad("the form cannot be read", "Send multipart/form-data") from None
    files, texts = [], {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "files":
                raise _bad(f"there is a file in the field {shown(name)}", "Name the field files")
            with value.file as file:
                files.append(file.read())
        elif name not in fields:
            raise _bad(f"there is no field {shown(name)}", f"Use files, {', '.join(fields)}")
        elif name in texts:
            raise _bad(f"the field {name} is there twice", "Give it once")
        else:
            texts[name] = value
    if not files:
        raise _bad(
            "there is no file", "Send the images of one study in the field files", "no_files"
        )
    return Form(tuple(files), {name: text for name, text in texts.items() if text.strip()})


class _Parser(MultiPartParser):
    """Reads texts as UTF-8, whatever codec of Python the request names as its charset.

    Some of these raise errors of their own, or give what is no text.
    """

    @property
    def _charset(self) -> str:
        return "utf-8"

    @_charset.setter
    def _charset(self, name: str) -> None:
        pass


def content_of_url(url: Any) -> bytes:
    """The bytes of a ``data:`` address; others are not fetched.

    Raises:
        RequestError: it is another address, or not base64.
    """
    match = _DATA_URL.match(url) if isinstance(url, str) else None
    if match is None:
        raise RequestError(
            "an image is no data: address in base64, and others are never fetched",
            kind="no_data_url",
            remedy="Write data:image/png;base64,... or data:application/dicom;base64,...",
        )
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("a data: address is not base64", kind="bad_base64") from None


def study_of(files: Sequence[bytes], indication: str | None = None, **texts: Any) -> StudyInMemory:
    """The files as views of one study, which is named by their content.

    Args:
        files: contents; each is called ``file N``.
        indication: why the study was made.
        **texts: ``technique`` and ``comparison`` of the study.

    Raises:
        DataError: they state different studies or patients.
        RequestError: a text is too long.
    """
    pictures = {f"file {number}": content for number, content in enumerate(files, 1)}
    headers = [(name, read_study_header(content)) for name, content in pictures.items()]
    whole = as_one_study(group_members(headers), remedy="Send the files of one study at a time")
    digest = hashlib.sha256()
    for content in files:
        digest.update(hashlib.sha256(content).digest())
    for name, text in {"indication": indication, **texts}.items():
        if text is not None and len(text) > MOST_CHARACTERS:
            raise _bad(f"the {name} has {len(text)} characters", f"Use at most {MOST_CHARACTERS}")
    name = f"upload-{digest.hexdigest()[:20]}"
    return StudyInMemory(
        name, name, images=whole.images, indication=indication, pictures=pictures, **texts
    )


def _bad(what: str, remedy: str, kind: str = "bad_form") -> RequestError:
    return RequestError(what, kind=kind, remedy=remedy)

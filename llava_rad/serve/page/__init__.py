"""The web page of ``llava-rad serve``: its files, what it needs to know, and its heat maps.

The page is in ``static``: HTML, CSS and JavaScript modules as they are, with no build step. It uses
the endpoints that everybody uses, and asks no other host for anything.
"""

from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llava_rad.reports import SentenceAttention, report_attention
from llava_rad.serve.page.card import card_html
from llava_rad.serve.page.examples import EXAMPLES
from llava_rad.serve.request_errors import RequestError
from llava_rad.serve.schema import BODIES
from llava_rad.serve.service import Service
from llava_rad.serve.uploads import MOST_FILES, read_form, study_of

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_MODEL = {"name": "model", "in": "query", "schema": {"type": "string"}}


def add_page(app: FastAPI) -> None:
    """Add the page to the application that has a :class:`Service` as ``app.state.service``."""
    service: Service = app.state.service
    files = _files()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _answer(files["index.html"])

    @app.get("/page/about.json", include_in_schema=False)
    async def about() -> JSONResponse:
        """What the page must know before it can ask for anything; nothing of a study or model."""
        examples = [
            {"name": name, "title": example.title}
            for name, example in EXAMPLES.items()
            if example.is_here()
        ]
        limits = {"most_files": MOST_FILES, "most_bytes": service.settings.most_bytes}
        return JSONResponse({"examples": examples, **limits})

    @app.get("/page/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        if name not in EXAMPLES or not EXAMPLES[name].is_here():
            raise _no_file()
        content = await service.read(EXAMPLES[name].content)
        return Response(content, media_type=EXAMPLES[name].media_type)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise _no_file()
        return _answer(files[name])

    @app.get(
        "/v1/card", tags=["models"], response_class=Response, openapi_extra={"parameters": [_MODEL]}
    )
    async def card(request: Request) -> Response:
        """The card of a model as HTML, all markup in its text escaped."""
        content = card_html(service.model(request.query_params.get("model") or None))
        return Response(content, media_type="text/html; charset=utf-8")

    @app.post("/v1/attention", tags=["reports"], openapi_extra=BODIES["attention"])
    async def attention(request: Request) -> JSONResponse:
        """Which patches of the images each sentence of a report attended to.

        It is the attention of the LLM's layers and heads, averaged, from one pass over the text: a
        hint at where a sentence may have come from, and no proof. The files are those of the
        report, which is sent as it came. In a `grid` 1 is an even share of the attention that goes
        to the images; `box` is the grid's top, left, bottom and right in pixels of the image.
        """
        place = service.place(request)
        fields = ("report", "indication", "frame")
        form = await read_form(request, fields, most_bytes=service.settings.most_bytes)
        study = await service.read(study_of, form.files, form.text("indication"))
        report = service.sealed(form.text("report") or "", study)
        model = service.model(report.model)
        prepared = await service.request(model, study, form.number("frame", int))
        found = await place.run(lambda: report_attention(model, prepared.request, report.findings))
        return JSONResponse({"sentences": [_values(sentence) for sentence in found]})


def _files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name: content and media type."""
    contents = {
        file.name: file.read_bytes()
        for file in (resources.files(__package__) / "static").iterdir()
        if file.is_file()
    }
    colours = resources.files("llava_rad.appearance") / "page.css"
    contents["project.css"] = colours.read_bytes()
    return {name: (content, _TYPES[name.rpartition(".")[2]]) for name, content in contents.items()}


def _answer(file: tuple[bytes, str]) -> Response:
    content, media_type = file
    return Response(content, media_type=media_type)


def _values(sentence: SentenceAttention) -> dict[str, Any]:
    images = [
        {"grid": image.grid.astype(float).round(3).tolist(), "box": [*map(float, image.box)]}
        for image in sentence.images
    ]
    return {
        "start": sentence.start,
        "end": sentence.end,
        "share": round(sentence.share, 4),
        "images": images,
    }


def _no_file() -> RequestError:
    return RequestError("there is no such file of the page", status=404, kind="no_such_path")

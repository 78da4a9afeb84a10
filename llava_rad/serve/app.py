"""The endpoints: reports, embeddings, previews and chat completions over HTTP.

:func:`create_app` makes the application that ``llava-rad serve`` runs; any ASGI server runs it.
"""

import asyncio
import functools
import io
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from starlette.exceptions import HTTPException

from llava_rad import __version__
from llava_rad.errors import LlavaRadError
from llava_rad.extras import is_installed
from llava_rad.images import Radiograph, load_radiograph
from llava_rad.images.limits import MIN_SIDE
from llava_rad.names import plain_text
from llava_rad.reports import Report, ReportWriter
from llava_rad.reports.formats import FORMATS, ReportFormat, report_format
from llava_rad.serve.chat import Asked, ChatRequest, Completion
from llava_rad.serve.guard import Guard, origins
from llava_rad.serve.organ_outlines import colours_of, outline_picture
from llava_rad.serve.page import add_page
from llava_rad.serve.report_text import GrowingText
from llava_rad.serve.request_errors import (
    RequestError,
    data,
    error_response,
    error_values,
    event,
    of_http,
)
from llava_rad.serve.schema import BODIES
from llava_rad.serve.service import Service, ServiceSettings
from llava_rad.serve.uploads import read_form, study_of

# Seconds after which a stream that has nothing to say says so, for proxies that end silent ones.
_SILENCE = 15.0
_LARGEST_PREVIEW = 2048
_EVENTS = "text/event-stream"


def create_app(models: Sequence[ReportWriter], settings: ServiceSettings | None = None) -> FastAPI:
    """The application that serves models.

    Args:
        models: that may be asked, by their names; the first one is the default.
        settings: limits, who may call, and the rest.

    Returns:
        The application; ``app.state.service`` is its :class:`Service`.

    Raises:
        ConfigError: no model, two of one name, or an origin that is none.

    Example:
        >>> from llava_rad.serve.app import create_app
        >>> [route.path for route in create_app([model]).routes if "report" in route.path]
        ['/v1/report']
    """
    settings = settings or ServiceSettings()
    service = Service(models, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="llava-rad",
        version=__version__,
        description="Findings text from chest X-rays. For research; not for clinical use.",
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_exception_handler(LlavaRadError, _tell)
    app.add_exception_handler(HTTPException, _tell)
    app.add_middleware(Guard, service=service)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins(settings.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Request-Id", "X-Radiograph", "X-Outlines", "Retry-After"],
        )
    _add_facts(app, service)
    _add_reports(app, service)
    _add_images(app, service)
    _add_chat(app, service)
    add_page(app)
    return app


async def _tell(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        error = of_http(error)
    return error_response(cast(LlavaRadError, error))


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> JSONResponse:
        """Whether the server takes requests; needs no token."""
        if service.work.closing:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Counts and times for Prometheus."""
        content, media_type = service.measures.text(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    @app.get("/v1/models", tags=["models"])
    async def models() -> JSONResponse:
        """The models that may be asked, the default first."""
        usable = [f.name for f in FORMATS.values() if f.extra is None or is_installed(f.extra)]
        shared = {
            "object": "model",
            "created": 0,
            "owned_by": "llava-rad",
            "formats": usable,
            "max_new_tokens": service.settings.max_new_tokens,
            "keeps_identifiers": service.settings.keep_identifiers,
        }
        rows = [
            {
                **shared,
                "id": name,
                "hash": model.folder_hash,
                "roles": list(model.processor.template.image_lines),
                "outlines": list(model.heads.structures),
            }
            for name, model in service.models.items()
        ]
        return JSONResponse({"object": "list", "data": rows})


def _add_reports(app: FastAPI, service: Service) -> None:
    names = ("indication", "format", "stream", "frame", "model")
    decoding = {"max_new_tokens": int, "temperature": float, "top_p": float, "seed": int}

    @app.post("/v1/report", tags=["reports"], openapi_extra=BODIES["report"])
    async def report(request: Request) -> Response:
        """Write the findings of one study.

        As JSON it is what `llava-rad report --format json` writes, with a `seal` for
        `/v1/document`. With `stream=true` the answer is events: `text` with a piece of the
        findings, and at the end `done` with the JSON report, or `error`.
        """
        place = service.place(request)
        form = await read_form(request, (*names, *decoding), most_bytes=_limit(service))
        model = service.model(form.text("model"))
        format = _format(form.text("format"))
        streams = form.flag("stream")
        if streams and format.name != "json":
            raise RequestError(
                f"{format.name} cannot be streamed",
                kind="bad_form",
                remedy="Stream JSON, and send it to /v1/document for the rest",
            )
        settings = service.decoding(**{n: form.number(n, kind) for n, kind in decoding.items()})
        frame = form.number("frame", int)
        study = await service.read(study_of, form.files, form.text("indication"))
        prepared = await service.request(model, study, frame)

        async def written(text: GrowingText | None = None) -> bytes:
            follow = None if text is None else text.follow
            report = await service.report(place, model, study, prepared, settings, follow)
            if text is not None:
                text.end(report.findings)
            return await service.document(format, report, study, frame)

        if not streams:
            return _file(format, await written())
        text = GrowingText(model)
        return StreamingResponse(_events(written(text), text), media_type=_EVENTS)

    @app.post("/v1/document", tags=["reports"], openapi_extra=BODIES["document"])
    async def document(request: Request) -> Response:
        """Write a report that this server gave as JSON in another format.

        The files are those of the report, and the report is sent as it came.
        """
        service.place(request)
        form = await read_form(
            request, ("report", "format", "frame", "indication"), most_bytes=_limit(service)
        )
        study = await service.read(study_of, form.files, form.text("indication"))
        report = service.sealed(form.text("report") or "", study)
        format, frame = _format(form.text("format")), form.number("frame", int)
        return _file(format, await service.document(format, report, study, frame))


async def _events(written: Coroutine[Any, Any, bytes], text: GrowingText) -> AsyncIterator[str]:
    async for piece in _pieces(task := asyncio.create_task(written), text):
        yield event("text", {"text": piece}) if piece else ": waiting\n\n"
    try:
        yield event("done", json.loads(await task))
    except LlavaRadError as error:
        yield event("error", error_values(error))


async def _pieces(task: "asyncio.Task[Any]", text: GrowingText) -> AsyncIterator[str]:
    """The pieces of a text until its task is done, and an empty one after each long silence."""
    task.add_done_callback(lambda _: text.close())
    try:
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    piece = await text.piece()
            except TimeoutError:
                piece = ""
            if piece is None:
                return
            yield piece
    finally:
        task.cancel()


def _limit(service: Service) -> int:
    return service.settings.most_bytes


def _format(name: str | None) -> ReportFormat:
    return report_format(name or "json")


def _file(format: ReportFormat, content: bytes) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="report{format.ending}"'}
    shown = format.name in ("json", "text")
    return Response(content, media_type=format.media_type, headers={} if shown else headers)


def _add_images(app: FastAPI, service: Service) -> None:
    @app.post("/v1/preview", tags=["images"], openapi_extra=BODIES["preview"])
    async def preview(request: Request) -> Response:
        """The radiograph as an 8-bit PNG, rendered as the model's pictures are.

        The header `X-Radiograph` is JSON: rows and columns of the whole picture, its view, and
        what was noticed.
        """
        service.place(request)
        load, size, _ = await _one_picture(request, service)

        def draw() -> Response:
            found = load()
            headers = {"X-Radiograph": json.dumps(_facts(found))}
            return Response(_png(found, size), media_type="image/png", headers=headers)

        return await service.read(draw)

    @app.post("/v1/outlines", tags=["images"], openapi_extra=BODIES["preview"])
    async def outlines(request: Request) -> Response:
        """The organs that a model outlines, as a transparent PNG of the preview's size.

        The header `X-Outlines` is JSON: the colour of each structure. `GET /v1/models` says which
        structures a model outlines.
        """
        place = service.place(request)
        load, size, model = await _one_picture(request, service)
        radiograph = await service.read(load)
        masks = await place.run(lambda: model.outline(radiograph))
        if not masks:
            raise RequestError("this model outlines no organs", status=404, kind="no_outlines")
        content = await service.read(outline_picture, masks, size)
        headers = {"X-Outlines": json.dumps(colours_of(masks))}
        return Response(content, media_type="image/png", headers=headers)

    @app.post("/v1/embed", tags=["images"], openapi_extra=BODIES["embed"])
    async def embed(request: Request) -> JSONResponse:
        """One vector an image by the model's encoder, as `model.encoder.embed` gives it."""
        place = service.place(request)
        form = await read_form(request, ("frame", "model"), most_bytes=_limit(service))
        model = service.model(form.text("model"))
        encoder = model.encoder
        frame, rendering = form.number("frame", int), encoder.preprocessing.rendering

        def read() -> list[Radiograph]:
            return [
                load_radiograph(content, rendering=rendering, frame=frame, name=f"file {number}")
                for number, content in enumerate(form.files, 1)
            ]

        images = await service.read(read)
        rows = await place.run(lambda: encoder.embed(images))
        return JSONResponse(
            {
                "model": model.config.name,
                "encoder": model.config.encoder.fingerprint,
                "dim": encoder.dim,
                "images": [image.source for image in images],
                "embeddings": rows.tolist(),
            }
        )


async def _one_picture(
    request: Request, service: Service
) -> tuple[Callable[[], Radiograph], int, ReportWriter]:
    """What reads the one file of a form, the size that is asked for, and the model."""
    form = await read_form(request, ("frame", "size", "model"), most_bytes=_limit(service))
    if len(form.files) != 1:
        raise RequestError("there are several files", kind="bad_form", remedy="Send one")
    size = form.number("size", int) or _LARGEST_PREVIEW
    if not MIN_SIDE <= size <= _LARGEST_PREVIEW:
        raise RequestError(
            f"size is {size}",
            kind="out_of_range",
            remedy=f"Use {MIN_SIDE} to {_LARGEST_PREVIEW}",
        )
    model = service.model(form.text("model"))
    rendering, frame = model.processor.preprocessing.rendering, form.number("frame", int)
    load = functools.partial(
        load_radiograph, form.files[0], rendering=rendering, frame=frame, name="file 1"
    )
    return load, size, model


def _facts(radiograph: Radiograph) -> dict[str, Any]:
    rows, columns = radiograph.pixels.shape
    names = ("view", "view_position", "laterality", "pixel_spacing")
    return {
        "rows": rows,
        "columns": columns,
        **{name: getattr(radiograph, name) for name in names},
        "warnings": [plain_text(warning) for warning in radiograph.warnings],
    }


def _png(radiograph: Radiograph, size: int) -> bytes:
    picture = Image.fromarray(radiograph.pixels)
    picture.thumbnail((size, size), reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", tags=["chat"], openapi_extra=BODIES["chat"])
    async def chat(request: Request) -> Response:
        """OpenAI's chat completions: one message of the user with the images of one study.

        Images are `data:` addresses; DICOM is one too. Of the text, lines that begin with
        `Indication:`, `Technique:` or `Comparison:` are shown to the model.
        """
        place = service.place(request)
        wanted = ChatRequest.parse(await request.body())
        model = service.model(wanted.model)
        asked = await service.read(Asked, wanted)
        settings = service.decoding(
            max_new_tokens=wanted.most_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            seed=wanted.seed,
        )
        study = await service.read(lambda: study_of(asked.files, **asked.texts))
        prepared = await service.request(model, study)
        prompt_tokens = len(model.processor.encode(prepared.request).input_ids)
        completion = Completion(secrets.token_hex(8), model.config.name)

        async def written(text: GrowingText | None = None) -> Report:
            follow = None if text is None else text.follow
            report = await service.report(place, model, study, prepared, settings, follow)
            if text is not None:
                text.end(report.findings)
            return replace(report, warnings=(*asked.warnings, *report.warnings))

        if not wanted.stream:
            return JSONResponse(completion.whole(await written(), prompt_tokens))

        async def chunks(text: GrowingText) -> AsyncIterator[str]:
            yield data(completion.chunk({"role": "assistant", "content": ""}))
            task = asyncio.create_task(written(text))
            async for piece in _pieces(task, text):
                yield data(completion.chunk({"content": piece})) if piece else ": waiting\n\n"
            try:
                report = await task
            except LlavaRadError as error:
                yield data(error_values(error))
                return
            yield data(completion.last(report))
            if wanted.stream_options is not None and wanted.stream_options.include_usage:
                yield data(completion.usage(report, prompt_tokens))
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(GrowingText(model)), media_type=_EVENTS)

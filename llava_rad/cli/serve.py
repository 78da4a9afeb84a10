"""``llava-rad serve``: reports over HTTP, for pages and programs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import say, say_precision, status, user_errors
from llava_rad.cli.options import BATCH_SIZE, BatchSize, Loading
from llava_rad.cli.serving import KeepIdentifiers, MaxNewTokens

#: Holds the token where no file does.
TOKEN_VARIABLE = "LLAVA_RAD_TOKEN"
_SHORTEST_TOKEN = 16


def serve(
    loading: Loading,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Report models: mini, folders, training runs, or hub ids; by default mini.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A further name that requests may call the server by; repeatable."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="A web page's origin that may call, such as https://viewer.example; repeatable.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file with the token that requests must carry; or {TOKEN_VARIABLE} has it."
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests in hand at a time; more are told to come later.")
    ] = 32,
    batch_size: BatchSize = BATCH_SIZE,
    max_upload: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="MB of a request's files together.")
    ] = 128.0,
    max_new_tokens: MaxNewTokens = 256,
    keep_identifiers: KeepIdentifiers = False,
) -> None:
    """Serve reports over HTTP until it is stopped: a REST interface, OpenAI's chat, metrics.

    Files stay in memory. When it is stopped, requests in hand are finished.

    Example:
        llava-rad serve
        curl -F files=@chest.dcm -F indication=cough http://127.0.0.1:8000/v1/report
    """
    with user_errors("requests in hand were finished"):
        from llava_rad.extras import require

        require("serve", "serving")
        token = read_token(token_file)

        from llava_rad.reports import load
        from llava_rad.serve.app import create_app
        from llava_rad.serve.guard import origins
        from llava_rad.serve.http_server import HttpServer
        from llava_rad.serve.service import ServiceSettings

        settings = ServiceSettings(
            host=host,
            allow_hosts=tuple(allow_host or ()),
            allow_origins=tuple(origins(allow_origin or ())),
            token=token,
            places=queue,
            batch_size=batch_size,
            most_bytes=int(max_upload * 1e6),
            max_new_tokens=max_new_tokens,
            keep_identifiers=keep_identifiers,
            say=say,
        )
        with HttpServer(host, port) as server:
            loaded = []
            for model in models or ["mini"]:
                with status(f"Loading {model}"):
                    loaded.append(
                        load(
                            model,
                            device=loading.device,
                            dtype=loading.dtype,
                            quantize=loading.quantize,
                            base_llm=loading.base_llm,
                        )
                    )
            say_precision(loading.dtype, str(loaded[0].encoder.dtype), loading.device)
            app = create_app(loaded, settings)
            if token is None and not (host.startswith("127.") or host in ("localhost", "::1")):
                say(f"warning: whoever reaches {host} may ask; set a token with --token-file")
            say(f"serving {', '.join(app.state.service.models)} on {server.address}")
            server.run(app)


def read_token(file: Path | None) -> str | None:
    """The token of a file or of the environment, or None.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    from llava_rad.errors import ConfigError
    from llava_rad.readers import read_text

    where: object = TOKEN_VARIABLE
    text = os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        where = file
        text = read_text(file, error=ConfigError, remedy="Check --token-file").strip()
    if text is None:
        return None
    if len(text) < _SHORTEST_TOKEN or not (text.isascii() and text.isprintable()) or " " in text:
        raise ConfigError(
            f"a token has at least {_SHORTEST_TOKEN} printable ASCII characters without spaces",
            where=where,
            remedy="Make one, such as: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return text

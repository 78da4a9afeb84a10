"""``llava-rad listen``: a DICOM receiver that reports what it is sent."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.cli.common import say, user_errors
from llava_rad.cli.options import Device, Model, Precision
from llava_rad.cli.serving import (
    FormatName,
    Formats,
    KeepIdentifiers,
    MaxNewTokens,
    Quiet,
    checked_formats,
    load_model,
    said_of,
)


def listen(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the reports.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 11112,
    title: Annotated[
        str, typer.Option(help="Our AE title, which callers must name.")
    ] = "LLAVA_RAD",
    allow_title: Annotated[
        list[str] | None,
        typer.Option(help="An AE title that may call; give it again for several.", metavar="TITLE"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A host that may call; give it again for several.", metavar="HOST"),
    ] = None,
    send_to: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE@HOST:PORT",
            help="Send a DICOM SR of each study here; needs --keep-identifiers.",
        ),
    ] = None,
    format: Formats = [FormatName.text],  # noqa: B006 (typer copies it)
    keep_identifiers: KeepIdentifiers = False,
    quiet: Quiet = 30.0,
    most: Annotated[
        float, typer.Option(min=0.001, help="GB of images that may wait; more are refused.")
    ] = 10.0,
    model: Model = "mini",
    device: Device = "auto",
    dtype: Precision = "auto",
    max_new_tokens: MaxNewTokens = 256,
) -> None:
    """Receive chest X-rays by DICOM C-STORE and report each study, until it is stopped.

    Images are deleted when their study is reported. C-ECHO is answered.

    Example:
        llava-rad listen -o reports --format text --format fhir
    """
    written: dict[str, Any] = {}

    def kept() -> str:
        return f"{said_of(written.get('results'))}, images that came wait; the same command resumes"

    with user_errors(kept):
        from llava_rad.errors import ConfigError
        from llava_rad.extras import require
        from llava_rad.serve.sender import Peer, Sender, ae_title

        require("listen", "listening")
        title = ae_title(title, "--title")
        titles = [ae_title(each, "--allow-title") for each in allow_title or []]
        peer = None
        if send_to is not None:
            peer = Peer.parse(send_to, "--send-to")
            if not keep_identifiers:
                raise ConfigError(
                    "an archive cannot match a report that does not name the patient",
                    where="--send-to",
                    remedy="Add --keep-identifiers",
                )
            format = [*format, FormatName.dicom_sr]
        formats = checked_formats(format, keep_identifiers=keep_identifiers)

        from llava_rad.reports import GenerationSettings
        from llava_rad.serve.listener import Listener
        from llava_rad.serve.listener import listen as listen_to
        from llava_rad.serve.results import STATE, Results, own_state

        with own_state(output, keep_identifiers=keep_identifiers) as state:
            loaded, precision = load_model(model, device, dtype)
            listener = Listener(
                output / STATE / "received",
                title=title,
                host=host,
                port=port,
                titles=titles,
                hosts=allow_host or [],
                most_bytes=int(most * 1e9),
                say=say,
            )
            results = written["results"] = Results(
                loaded,
                GenerationSettings(max_new_tokens=max_new_tokens),
                formats,
                state,
                listener.folder,
                output,
                precision=precision,
                send=peer is not None,
                say=say,
            )
            sender = None
            if peer is not None:
                sender = Sender(peer, title, state.journal, output, say)
            with listener:
                if not (host.startswith("127.") or host in ("localhost", "::1") or allow_host):
                    say("warning: any host may send; name those that may with --allow-host")
                say(f"listening as {title} on {host}:{listener.port}")
                listen_to(listener, results, quiet=quiet, sender=sender)

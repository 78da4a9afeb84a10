"""The command line: parses, calls, prints.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 all done, 1 some inputs failed,
2 wrong usage. Heavy imports wait until a command runs, so that ``--help`` is quick.
"""

import contextlib
import enum
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    name="llava-rad",
    help="Findings text from chest X-rays. For research; not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(str, enum.Enum):
    """How results are printed."""

    text = "text"
    json = "json"


class Quantize(str, enum.Enum):
    """Bits of the LLM's weights."""

    four = "4bit"
    eight = "8bit"


class Precision(str, enum.Enum):
    """Number format of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from llava_rad import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def report(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Files, folders, globs, or manifests.", show_default=False
        ),
    ],
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id.")] = "mini",
    indication: Annotated[str | None, typer.Option(help="Why the study was made.")] = None,
    format: Annotated[
        Format | None, typer.Option(help="Default: text; json (lines) with --output.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here; a run cut off goes on where it stopped."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Studies decoded together.")] = 1,
    quantize: Annotated[
        Quantize | None, typer.Option(help="Quantise the LLM's weights (bitsandbytes).")
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU.")
    ] = Precision.auto,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    num_beams: Annotated[int, typer.Option(min=1, help="Beams; 1 is greedy.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is deterministic.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="With a temperature: share drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest report, in tokens.")] = 256,
    llm: Annotated[str | None, typer.Option(help="Another place of the model's base LLM.")] = None,
) -> None:
    """Write the findings of chest X-rays."""
    with _user_errors():
        from llava_rad.data import expand_inputs
        from llava_rad.generation import GenerationSettings
        from llava_rad.model import load
        from llava_rad.reporting import (
            Failure,
            ReportFile,
            report_studies,
            run_id,
            with_indication,
        )

        style = format or (Format.json if output else Format.text)
        studies = with_indication(expand_inputs(images), indication)
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        place = _device(device)
        number = _dtype(dtype, place)
        with _status(f"Loading {model}"):
            loaded = load(
                model,
                dtype=number,
                device=place,
                quantize=quantize.value if quantize else None,
                base_llm=llm,
            )
        precision = f"{number}, {quantize.value if quantize else 'not quantised'}"
        run = run_id(loaded, settings, precision=precision)

        failed, total = 0, len(studies)
        with contextlib.ExitStack() as stack:
            file = None
            if output is not None and style is Format.json:
                file = stack.enter_context(ReportFile(output, run))
                studies = [s for s in studies if s.study_id not in file.done]
                if total > len(studies):
                    _say(f"{total - len(studies)} of {total} are in {output} already")
            text = None
            if output is not None and style is Format.text:
                text = stack.enter_context(_open_text(output))
            advance = stack.enter_context(_progress("Reports", len(studies)))
            for result in report_studies(loaded, studies, settings, batch_size=batch_size):
                if isinstance(result, Failure):
                    failed += 1
                    _say(f"error: {result.error}")
                elif file is not None:
                    file.write(result)
                elif style is Format.json:
                    _print(json.dumps({**result.to_dict(), "run": run}, ensure_ascii=False))
                else:
                    _print(_as_text(result, many=total > 1), text)
                advance()
        if failed:
            _say(f"{failed} of {total} failed, the others are written")
            raise typer.Exit(1)


@app.command()
def encode(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs or manifests.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    encoder: Annotated[
        str, typer.Option(help="A registered name, a folder, a hub id, or mini.")
    ] = "rad-dino",
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 8,
    dtype: Annotated[Precision, typer.Option(help="Number format of the tokens.")] = Precision.auto,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Write CLS and patch tokens of images to a safetensors file."""
    with _user_errors():
        from llava_rad.data import expand_inputs
        from llava_rad.encoders import load_encoder
        from llava_rad.encoding import encode_images, write_tokens
        from llava_rad.errors import LlavaRadError
        from llava_rad.model.loading import BUNDLED

        paths = [image.path for study in expand_inputs(images) for image in study.images]
        place = _device(device)
        with _status(f"Loading {encoder}"):
            source = str(BUNDLED[encoder] / "encoder") if encoder in BUNDLED else encoder
            loaded = load_encoder(source, dtype=_dtype(dtype, place), device=place)
        tokens = {}
        failed = 0
        with _progress("Images", len(paths)) as advance:
            for path, result in encode_images(loaded, paths, batch_size=batch_size):
                if isinstance(result, LlavaRadError):
                    failed += 1
                    _say(f"error: {result}")
                else:
                    tokens[path] = result
                advance()
        if tokens:
            write_tokens(output, loaded, tokens)
            _say(f"{len(tokens)} images in {output}")
        if failed:
            raise typer.Exit(1)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="The data set's name; see --list.")] = "",
    root: Annotated[Path | None, typer.Argument(help="The folder it was unpacked into.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Manifest: .jsonl or .parquet.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="KEY=VALUE", help="The data set's own options."),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Training patients to move to validation.")
    ] = 0.0,
    test: Annotated[
        float, typer.Option(min=0, max=1, help="Training patients to move to test.")
    ] = 0.0,
    list_: Annotated[bool, typer.Option("--list", help="List data sets and options.")] = False,
) -> None:
    """Turn a data set into a manifest."""
    with _user_errors():
        from llava_rad.data import ADAPTERS, adapter_options, convert
        from llava_rad.errors import ConfigError

        if list_:
            for known in ADAPTERS:
                options = ", ".join(f"{k}={v}" for k, v in adapter_options(known).items())
                _print(f"{known:<16} {options}".rstrip())
            return
        if not name or root is None or output is None:
            raise ConfigError(
                "a data set, its folder and --output are needed",
                remedy="llava-rad data NAME ROOT -o FILE; llava-rad data --list names the sets",
            )
        given = [item.partition("=") for item in option or []]
        pairs = {key: value if sign else "true" for key, sign, value in given}
        result = convert(name, root, output, validation=validation, test=test, **pairs)
        splits = ", ".join(f"{count} {split}" for split, count in result.splits.items())
        _say(
            f"{result.studies} studies ({splits}), {result.images} images, "
            f"{result.with_findings} with findings -> {result.output}"
        )
        for reason, ids in result.left_out.items():
            _say(f"left out, {reason}: {len(ids)} ({', '.join(ids[:3])}{' ...' * (len(ids) > 3)})")
        for fact, ids in result.noted.items():
            _say(f"noted, {fact}: {len(ids)}")
        _say(f"every id is listed in {result.output}.report.json")
        _print(result.sha256)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="A YAML file of configs/report.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change a setting.")
    ] = None,
    studies: Annotated[int, typer.Option(min=1, help="Studies of an epoch.")] = 270_000,
    gpu: Annotated[str, typer.Option(help="The kind of GPU.")] = "a100-80gb",
    processes: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the rated operations reached.")
    ] = 0.4,
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Estimate parameters, tokens, memory and hours of a training, without loading weights."""
    with _user_errors():
        from llava_rad.config import load_config
        from llava_rad.training.config import ReportTrainingConfig
        from llava_rad.training.plan import plan as plan_run

        settings = load_config(ReportTrainingConfig, config, overrides or [])
        result = plan_run(
            settings, studies=studies, gpu=gpu, processes=processes, utilisation=utilisation
        )
        _print(json.dumps(result.to_dict()) if format is Format.json else result.text())


class Target(str, enum.Enum):
    """Formats that a checkpoint is converted to."""

    llava_rad = "llava-rad"
    llava = "llava"


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder to write.")],
    to: Annotated[
        Target, typer.Option(help="This project's format, or merged transformers Llava.")
    ] = Target.llava_rad,
    base_llm: Annotated[
        str | None, typer.Option(help="The LLM that a LoRA or adapter belongs to.")
    ] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="Encoder name, folder, hub id, or open_clip checkpoint.")
    ] = None,
    vision_config: Annotated[
        str | None, typer.Option(help="The open_clip JSON that goes with such a checkpoint.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the model.")] = None,
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Read LLaVA-Rad, LLaVA 1.5, Llava and MAIRA-2 checkpoints; write this format or Llava."""
    with _user_errors():
        from llava_rad.interchange import convert as convert_checkpoint

        with _status(f"Converting {source}"):
            result = convert_checkpoint(
                source,
                output,
                to=to.value,
                base_llm=base_llm,
                vision_tower=vision_tower,
                vision_config=vision_config,
                name=name,
            )
        _print(json.dumps(result.to_dict(), indent=2) if format is Format.json else str(result))


@app.command()
def doctor(
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Say what is installed, which devices and number formats work, which weights are at hand."""
    with _user_errors():
        from llava_rad.doctor import as_dict, examine

        with _status("Examining"):
            checks = examine()
        if format is Format.json:
            _print(json.dumps(as_dict(checks), indent=2))
        else:
            group = ""
            for check in checks:
                if check.group != group:
                    group = check.group
                    _print(group)
                mark = {True: "+", False: "-", None: " "}[check.ok]
                _print(f"  {mark} {check.name:<28} {check.value}")
        if any(check.ok is False and check.group == "packages" for check in checks):
            raise typer.Exit(1)


def main() -> None:
    """Entry point of the command."""
    # bitsandbytes mentions optional kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    app()


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Print errors meant for the user in one line; wrong usage exits with 2, the rest with 1."""
    from llava_rad.errors import ConfigError, LlavaRadError

    try:
        yield
    except LlavaRadError as error:
        _say(f"error: {error}")
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt:
        _say("stopped; what was written stays, the same command goes on from there")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of stdout has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


def _device(name: str) -> str:
    import torch

    from llava_rad.errors import ConfigError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"this device cannot be used ({str(error).splitlines()[0]})",
            where=f"--device {name}",
            remedy="See: llava-rad doctor",
        ) from error
    return name


def _dtype(precision: Precision, device: str) -> "torch.dtype":
    import torch

    if precision is Precision.auto:
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return getattr(torch, precision.value)


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def _print(text: str, file: Any = None) -> None:
    print(text, file=file or sys.stdout, flush=True)


def _open_text(path: Path) -> Any:
    from llava_rad.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write ({error.strerror})", where=path, remedy="Choose another --output"
        ) from error


def _as_text(report: Any, *, many: bool) -> str:
    lines = [f"== {report.study_id}"] if many else []
    lines += [report.findings or "(no text)", ""]
    if report.truncated:
        lines.append("Note: cut off at --max-new-tokens.")
    if report.repetitive:
        lines.append("Note: the text repeats itself; do not rely on it.")
    lines += [f"Note: {warning}" for warning in report.warnings]
    lines.append(f"[{report.model}] {report.disclaimer}")
    return "\n".join(lines) + ("\n" if many else "")


@contextlib.contextmanager
def _status(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Any]:
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


if __name__ == "__main__":
    main()

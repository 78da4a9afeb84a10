"""``llava-rad report``: the findings of chest X-rays."""

import contextlib
import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.cli.common import (
    Format,
    Precision,
    Quantize,
    open_text,
    pick_device,
    pick_dtype,
    progress,
    say,
    say_left_out,
    status,
    user_errors,
    write_json,
    write_out,
)


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
        Quantize | None,
        typer.Option(help="Quantise the LLM's weights (bitsandbytes); default: as in training."),
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
    frame: Annotated[
        int | None, typer.Option(min=1, help="Which picture of files that hold several.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="Another place of the model's base LLM.")] = None,
) -> None:
    """Write the findings of chest X-rays."""
    with user_errors():
        from llava_rad.data import ConversionLog, expand_inputs
        from llava_rad.model import load
        from llava_rad.reports.file import ReportFile, run_id
        from llava_rad.reports.generate import GenerationSettings
        from llava_rad.reports.study import (
            Failure,
            empty_report,
            read_study,
            report_studies,
            with_indication,
        )

        style = format or (Format.json if output else Format.text)
        log = ConversionLog()
        studies = with_indication(expand_inputs(images, log=log), indication)
        say_left_out(log)
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        place = pick_device(device)
        number = pick_dtype(dtype, place)
        with status(f"Loading {model}"):
            loaded = load(
                model,
                dtype=number,
                device=place,
                quantize=quantize.value if quantize else None,
                base_llm=llm,
            )
        precision = f"{number}, {loaded.quantize or 'not quantised'}"
        run = run_id(loaded, settings, precision=precision, frame=frame)
        read = functools.partial(read_study, frame=frame)

        failed, incomplete, written, total = 0, 0, 0, len(studies)
        with contextlib.ExitStack() as stack:
            file = None
            if output is not None and style is Format.json:
                file = stack.enter_context(ReportFile(output, run))
                for study in studies:
                    if study.study_id in file.empty:
                        failed += 1
                        say(f"error: {empty_report(study.study_id)}")
                studies = [s for s in studies if s.study_id not in file.done]
                if total > len(studies):
                    say(f"{total - len(studies)} of {total} are in {output} already")
            text = None
            if output is not None and style is Format.text:
                text = stack.enter_context(open_text(output))
            advance = stack.enter_context(progress("Reports", len(studies)))
            for result in report_studies(
                loaded, studies, settings, batch_size=batch_size, read=read
            ):
                if isinstance(result, Failure):
                    failed += 1
                    say(f"error: {result.error}")
                    advance()
                    continue
                written += 1
                lost = [w for w in result.warnings if w.startswith("unreadable: ")]
                incomplete += bool(lost)
                for warning in lost:
                    say(f"error: {result.study_id}: {warning}")
                if result.empty:
                    # Written nevertheless: the same command gives the same again.
                    failed += 1
                    say(f"error: {empty_report(result.study_id)}")
                if file is not None:
                    file.write(result)
                elif style is Format.json:
                    write_json({**result.to_dict(), "run": run})
                else:
                    write_out(_as_text(result, many=total > 1), text)
                advance()
        target = output if output is not None else "stdout"
        ending = f", {failed} of {total} failed" if failed else ""
        if incomplete:
            ending += f", {incomplete} without an image that cannot be read"
        say(f"{written} report{'s' * (written != 1)} -> {target}{ending}")
        if failed or incomplete:
            raise typer.Exit(1)


def _as_text(report: Any, *, many: bool) -> str:
    from llava_rad.names import escape_name, one_line

    lines = [one_line(f"== {report.study_id}")] if many else []
    lines += [report.findings or "(no text)", ""]
    if report.truncated:
        lines.append("Note: cut off at --max-new-tokens.")
    if report.repetitive:
        lines.append("Note: the text repeats itself; do not rely on it.")
    lines += [
        one_line(f"Shown as {role.replace('_', ' ')}: {escape_name(path)}")
        for path, role in zip(report.images, report.roles, strict=True)
    ]
    lines += [one_line(f"Note: {warning}") for warning in report.warnings]
    lines.append(f"[{report.model}] {report.disclaimer}")
    return "\n".join(lines) + ("\n" if many else "")

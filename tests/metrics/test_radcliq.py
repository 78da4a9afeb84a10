import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.radgraph_archives import published_config

from llava_rad.errors import MetricError
from llava_rad.metrics import BertScorer, RadCliQParts, radcliq, radgraph_radcliq
from llava_rad.metrics.annotator import RadGraphAnnotator
from llava_rad.metrics.radcliq import VERSIONS, composite


def test_the_average_report_of_the_study_has_no_surplus_of_errors():
    means = [0.53792312, 0.61757256, 0.76479421, 0.44738335]
    assert composite("radcliq_v1", *([m] for m in means))[0] == pytest.approx(0.0, abs=1e-9)


def test_values_against_a_pipeline_of_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_ = np.array([0.53792312, 0.61757256, 0.76479421, 0.44738335])
    scaler.scale_ = np.array([0.30282584, 0.22430938, 0.25394391, 0.29892717])
    weights = np.array([-0.377083683, -0.3703001, -0.252616218, 4.31504841e-12])
    rows = np.random.default_rng(0).random((20, 4))
    expected = scaler.transform(rows) @ weights
    np.testing.assert_allclose(composite("radcliq_v1", *rows.T), expected, atol=1e-8)


def test_version_0_against_scikit_learn():
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    scaler, model = StandardScaler(), LinearRegression()
    scaler.mean_ = np.array([0.53983760, 0.63125496, 0.77167979, 0.46073721])
    scaler.scale_ = np.array([0.30183444, 0.22466951, 0.24750334, 0.30336671])
    model.coef_ = np.array([-0.47962526, -0.67621705, -0.46366575, 0.21658619])
    model.intercept_ = 197 / 120  # 1.6416..., the mean of the radiologists' counts
    rows = np.random.default_rng(1).random((20, 4))
    expected = model.predict(scaler.transform(rows))
    np.testing.assert_allclose(composite("radcliq_v0", *rows.T), expected, atol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_better_report_has_a_lower_value(version):
    worse, better = composite(version, [0.2, 0.9], [0.2, 0.9], [0.2, 0.9], [0.2, 0.2])
    assert better < worse


class Annotations:
    """Stands for RadGraph: what it found is given."""

    model_type, checkpoint_hash = "radgraph", "0" * 64

    def __init__(self, found):
        self.found = found
        self.asked = 0

    def prepare(self, texts):
        self.asked += 1

    def each(self, texts):
        return (self.found[text] for text in texts)


def entity(tokens, label, *relations):
    return {"tokens": tokens, "label": label, "relations": list(relations)}


FOUND = {
    "mine": {
        "entities": {
            "1": entity("effusion", "OBS-DP", ["located_at", "2"]),
            "2": entity("pleural", "ANAT-DP"),
            "3": entity("large", "OBS-DP", ["modify", "1"]),
        }
    },
    "theirs": {
        "entities": {
            "1": entity("effusion", "OBS-DP", ["located_at", "2"]),
            "2": entity("pleural", "ANAT-DP"),
            "3": entity("Large", "OBS-DP", ["modify", "1"]),
        }
    },
    "nothing": {"entities": {}},
}


def test_entities_and_relations_by_hand():
    # 2 of 3 entities match ('Large' is not 'large'), and 1 of 2 relations.
    result = radgraph_radcliq(
        ["mine", "nothing"], ["theirs", "nothing"], annotator=Annotations(FOUND)
    )
    assert list(result.per_pair["entity_f1"]) == pytest.approx([2 / 3, 0])
    assert list(result.per_pair["relation_f1"]) == pytest.approx([1 / 2, 0])
    assert result.values["f1"] == pytest.approx((2 / 3 + 1 / 2) / 4)


class NamedScorer(BertScorer):
    """A tiny encoder under the published one's name and layer."""

    def embed(self, texts, **options):
        return replace(BertScorer(*vars(self).values()), layer=1).embed(texts, **options)


def test_both_versions_run_the_networks_once(bert_folder, labeler):
    annotator = Annotations({"no effusion": FOUND["mine"], "effusion": FOUND["theirs"]})
    tiny = BertScorer.load(str(bert_folder), layer=1, device="cpu")
    baseline = (0.1, 0.1, 0.1)
    scorer = NamedScorer(tiny.encoder, tiny.tokenizer, "distilroberta-base", 5, baseline)
    parts = RadCliQParts(annotator, scorer, labeler)
    v0 = radcliq("radcliq_v0", ["no  effusion"], ["effusion"], parts=parts)
    v1 = radcliq("radcliq_v1", ["no  effusion"], ["effusion"], parts=parts)
    assert annotator.asked == 1
    scores = parts(["no  effusion"], ["effusion"])
    assert v0.values["radcliq_v0"] == pytest.approx(composite("radcliq_v0", *scores.T)[0])
    assert v1.values["radcliq_v1"] == pytest.approx(composite("radcliq_v1", *scores.T)[0])


def test_other_networks_are_refused(bert_folder, labeler, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.th").write_bytes(b"")
    (model / "config.json").write_text(json.dumps(published_config("bert")))
    annotator = RadGraphAnnotator("radgraph", weights=model, cache=tmp_path)
    scorer = BertScorer.load(str(bert_folder), layer=1, device="cpu")
    with pytest.raises(MetricError, match="distilroberta-base"):
        RadCliQParts(annotator, scorer, labeler)


def test_a_folder_of_its_bertscore_model_is_taken(monkeypatch):
    scoring = sys.modules["llava_rad.metrics.score"]  # a function of the package has its name
    monkeypatch.setattr(scoring.BertScorer, "load", lambda model, **_: model)
    monkeypatch.setattr(scoring.CheXbert, "load", lambda *_, **__: None)
    monkeypatch.setattr(scoring, "RadGraphAnnotator", lambda *_, **__: None)
    monkeypatch.setattr(scoring, "RadCliQParts", lambda annotator, scorer, labeler: scorer)
    for named, taken in (
        ("models/distilroberta-base", "models/distilroberta-base"),
        ("roberta-large", "distilroberta-base"),
    ):
        settings = scoring.MetricSettings(bertscore_model=named, radgraph_model="radgraph")
        assert scoring._Shared(settings).radcliq == taken

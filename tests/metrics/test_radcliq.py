import json

import numpy as np
import pytest
from helpers.radgraph_archives import published_config

from llava_rad.errors import MetricError
from llava_rad.metrics import BertScorer, radcliq_v1
from llava_rad.metrics.annotator import RadGraphAnnotator
from llava_rad.metrics.radcliq import composite


def test_the_average_report_of_the_study_has_no_surplus_of_errors():
    means = [0.53792312, 0.61757256, 0.76479421, 0.44738335]
    assert composite(*([m] for m in means))[0] == pytest.approx(0.0, abs=1e-9)


def test_values_against_a_pipeline_of_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_ = np.array([0.53792312, 0.61757256, 0.76479421, 0.44738335])
    scaler.scale_ = np.array([0.30282584, 0.22430938, 0.25394391, 0.29892717])
    weights = np.array([-0.377083683, -0.3703001, -0.252616218, 4.31504841e-12])
    rows = np.random.default_rng(0).random((20, 4))
    expected = scaler.transform(rows) @ weights
    np.testing.assert_allclose(composite(*rows.T), expected, atol=1e-8)


def test_a_better_report_has_a_lower_value():
    worse, better = composite([0.2, 0.9], [0.2, 0.9], [0.2, 0.9], [0.2, 0.2])
    assert better < worse


def test_other_networks_are_refused(bert_folder, labeler, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.th").write_bytes(b"")
    (model / "config.json").write_text(json.dumps(published_config("bert")))
    annotator = RadGraphAnnotator("radgraph", weights=model, cache=tmp_path)
    scorer = BertScorer.load(str(bert_folder), layer=1, device="cpu")
    with pytest.raises(MetricError, match="distilroberta-base"):
        radcliq_v1(["a"], ["a"], annotator=annotator, scorer=scorer, labeler=labeler)

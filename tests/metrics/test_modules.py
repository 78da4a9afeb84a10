import evaluate
import pytest

from llava_rad.errors import MetricError, WeightsError
from llava_rad.metrics import METRICS, MetricSettings, load_metric, rouge

PREDICTIONS, REFERENCES = ["no effusion", "small nodule"], ["no effusion", "large nodule"]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_a_module_that_loads_without_a_network(name):
    metric = load_metric(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert metric.description


def test_a_module_computes_what_the_function_does():
    expected = rouge(PREDICTIONS, REFERENCES)
    metric = load_metric("rouge")
    values = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert values == pytest.approx(expected.values)
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    metric.add(prediction=PREDICTIONS[1], reference=REFERENCES[1])
    found = metric.compute(per_pair=True)
    assert found["per_pair"]["rougeL"] == list(expected.per_pair["rougeL"])


def test_modules_combine():
    both = evaluate.combine([load_metric("meteor"), load_metric("cider")])
    values = both.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert set(values) == {"meteor", "cider"}


def test_settings_and_missing_weights():
    stemmed = load_metric("rouge", MetricSettings(rouge_stemmer=True))
    values = stemmed.compute(predictions=["effusions"], references=["effusion"])
    assert values["rouge1"] == 1.0
    with pytest.raises(WeightsError, match="hf download"):
        load_metric("chexbert").compute(predictions=["a"], references=["a"])
    with pytest.raises(MetricError, match="bleu_coco"):
        load_metric("blue")

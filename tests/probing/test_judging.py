import numpy as np
import pytest
from helpers.tiny_models import tiny_encoder

from llava_rad.errors import WeightsError
from llava_rad.probing.judging import EncoderConfig, Judge
from llava_rad.probing.tasks import TaskConfig


@pytest.fixture
def judge(probing_data, tmp_path):
    tasks = [TaskConfig("bright", [probing_data], labels=["Bright"])]
    return Judge(tasks, tmp_path / "predictions", tmp_path / "cache")


def test_a_row_of_several_encoders_is_their_mean(judge):
    judge.add("first", [tiny_encoder(0)])
    judge.add("second", [tiny_encoder(1)])
    judge.add("both", (tiny_encoder(seed) for seed in (0, 1)), images=7)
    found = judge.compare("first", resamples=50, seed=0).estimates["bright"]
    values = [found[name]["auroc"].value for name in ("first", "second")]
    assert found["both"]["auroc"].value == pytest.approx(np.mean(values))
    assert found["both"]["auroc"].spread == pytest.approx(np.std(values, ddof=1))
    assert judge.repeats() == {"bright": {"both": values}}
    assert judge.facts["both"]["images"] == 7 and "images" not in judge.facts["first"]


def test_an_encoder_that_is_not_there_is_left_out(judge):
    judge.load(EncoderConfig("pixels", "pixels", 56))
    judge.load(EncoderConfig("absent", "nobody/nothing"))
    comparison = judge.compare("absent", resamples=50, seed=0)
    assert comparison.reference == "pixels" and list(comparison.left_out) == ["absent"]
    with pytest.raises(WeightsError):
        judge.load(EncoderConfig("absent", "nobody/nothing"), require=True)


def test_predictions_are_found_again_by_what_decides_them(judge, monkeypatch):
    judge.add("a", [tiny_encoder(0)])
    monkeypatch.setattr("llava_rad.probing.judging.run_task", None)
    again = Judge(judge.tasks, judge.predictions, judge.cache)
    again.add("under another name", [tiny_encoder(0)])
    assert again.parts["bright"]["under another name"][0].measured() == (
        judge.parts["bright"]["a"][0].measured()
    )
    with pytest.raises(TypeError):
        again.add("b", [tiny_encoder(1)])

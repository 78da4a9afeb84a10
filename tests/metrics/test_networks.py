"""Networks that are not here, or not whole, are named with what gets them."""

import pytest

from llava_rad.errors import WeightsError
from llava_rad.metrics.networks import load_network


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("someone/some-model", "Fetch it with: hf download someone/some-model"),
        ("some-model", "Fetch it with: hf download some-model"),
        ("/models/green", "Name the folder with the model's config.json"),
        ("~/green", "Name the folder with the model's config.json"),
        ("./green", "Name the folder with the model's config.json"),
        ("a/b/c", "Name the folder with the model's config.json"),
    ],
)
def test_what_fetches_a_model(model, remedy):
    with pytest.raises(WeightsError, match=r"x: .*: the model is not on this machine") as error:
        load_network(model, "AutoModel", metric="x")
    assert error.value.remedy.startswith(remedy) and error.value.kind == "missing"


@pytest.mark.parametrize("content", ["{", '{"model_type": "bert"}', '{"model_type": "no-such"}'])
def test_a_folder_that_is_not_whole_is_no_missing_one(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"the model cannot be read \(.+\)\. Name the folder"):
        load_network(str(tmp_path), "AutoModel", metric="x", tokenizer=False)

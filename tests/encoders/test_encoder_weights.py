import pytest
import torch
from safetensors.torch import save_file

from llava_rad.encoders.weights import LoadReport, load_into, matching
from llava_rad.errors import WeightsError
from llava_rad.weight_files import read_state_dict


@pytest.fixture
def layer():
    return torch.nn.Linear(2, 3)


@pytest.fixture
def state():
    return {"weight": torch.ones(3, 2), "bias": torch.ones(3)}


def test_every_key_is_accounted_for(layer, state):
    report = load_into(layer, {**state, "text.x": torch.ones(1)}, source="file", ignore=["text.*"])
    assert report == LoadReport("file", loaded=("bias", "weight"), ignored=("text.x",))
    assert str(report) == "file: 2 loaded, 1 ignored"
    assert torch.equal(layer.weight, state["weight"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bias": None}, r"missing 1 \(bias\)"),
        ({"text.x": torch.ones(1)}, r"unexpected 1 \(text\.x\)"),
        ({"bias": torch.ones(4)}, r"mismatched 1 \(bias \[4\] against \[3\]\)"),
    ],
)
def test_a_key_that_does_not_fit_changes_nothing_and_is_named(layer, state, change, named):
    before = layer.weight.clone()
    given = {key: value for key, value in {**state, **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=f"file: .*{named}"):
        load_into(layer, given, source="file")
    assert torch.equal(layer.weight, before)


def test_values_take_the_modules_dtype(layer, state):
    load_into(layer, {key: value.half() for key, value in state.items()}, source="file")
    assert layer.weight.dtype == torch.float32


def test_long_lists_are_cut_short():
    report = LoadReport("file", loaded=("a",), missing=tuple(f"k{i}" for i in range(40)))
    with pytest.raises(WeightsError, match=r"missing 40 \(k0, .* and 28 more\)"):
        report.require_complete()


def test_nothing_loaded_is_an_error():
    with pytest.raises(WeightsError, match="no tensor"):
        LoadReport("file").require_complete()


def test_patterns():
    assert matching(["text.a", "visual.b"], ["text.*"]) == ("text.a",)


def test_files_are_read_whatever_their_format(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    save_file({"weight": state["weight"]}, tmp_path / "c1.safetensors")
    save_file({"bias": state["bias"]}, tmp_path / "c2.safetensors")
    (tmp_path / "c.index.json").write_text(
        '{"weight_map": {"weight": "c1.safetensors", "bias": "c2.safetensors"}}'
    )
    for name in ("a.safetensors", "b.pth", "c.index.json"):
        read = read_state_dict(tmp_path / name)
        assert set(read) == set(state) and torch.equal(read["weight"], state["weight"])


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("cut.safetensors", b"\x20\0\0\0", "cut off"),
        ("text.pth", b"<html>not found</html>", "not a plain PyTorch"),
        ("empty.pt", b"", "cut off"),
        ("part.index.json", b'{"weight_map": {"a": "gone.safetensors"}}', r"gone\.safetensors"),
    ],
)
def test_damaged_files_are_weights_errors(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=named):
        read_state_dict(tmp_path / name)


def test_absent_files_and_whole_models_are_refused(tmp_path, layer):
    with pytest.raises(WeightsError, match="no such"):
        read_state_dict(tmp_path / "none.pt")
    torch.save(layer, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="can run code"):
        read_state_dict(tmp_path / "model.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    with pytest.raises(WeightsError, match="holds a Tensor"):
        read_state_dict(tmp_path / "tensor.pt")

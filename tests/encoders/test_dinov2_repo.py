import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersModel

from llava_rad.encoders import RAD_DINO, load_encoder
from llava_rad.encoders.dinov2_repo import (
    load_repo_encoder,
    load_repo_weights,
    repo_config,
    repo_to_transformers,
    transformers_to_repo,
)
from llava_rad.errors import WeightsError


@pytest.fixture
def repo_state(dinov2) -> dict[str, torch.Tensor]:
    return transformers_to_repo(dinov2.state_dict())


def chunked(state):
    """As a sharded training run of 2 chunks names 3 blocks."""
    return {
        key.replace("blocks.2.", "blocks.1.2.")
        .replace("blocks.0.", "blocks.0.0.")
        .replace("blocks.1.n", "blocks.0.1.n")
        .replace("blocks.1.a", "blocks.0.1.a")
        .replace("blocks.1.l", "blocks.0.1.l")
        .replace("blocks.1.m", "blocks.0.1.m"): tensor
        for key, tensor in state.items()
    }


def prefixed(prefix):
    return lambda state: {prefix + key: tensor for key, tensor in state.items()}


def training_checkpoint(state):
    """Teacher and student with their heads, as the repository saves them."""
    whole = {f"teacher.backbone.{key}": tensor for key, tensor in chunked(state).items()}
    whole |= {f"student.backbone.{key}": tensor + 1 for key, tensor in chunked(state).items()}
    for side in ("teacher", "student"):
        whole |= {f"{side}.{head}.mlp.0.weight": torch.zeros(2) for head in ("dino_head",)}
        whole |= {f"{side}.{head}.last_layer.weight_v": torch.zeros(2) for head in ("ibot_head",)}
    return {"model": whole, "iteration": 12}


LAYOUTS = {
    "plain": dict,
    "chunked": chunked,
    "module": prefixed("module."),
    "compiled": prefixed("module._orig_mod."),
    "teacher": prefixed("teacher.backbone."),
    "teacher_chunked": lambda state: prefixed("teacher.backbone.")(chunked(state)),
    "wrapped": lambda state: {"teacher": prefixed("backbone.")(state)},
    "training": training_checkpoint,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_whole_and_gives_equal_features(dinov2, repo_state, pixels, layout):
    model = Dinov2Model(dinov2.config).eval()
    report = load_repo_weights(model, LAYOUTS[layout](repo_state))
    assert report.missing == report.unexpected == ()
    assert len(report.loaded) == len(dinov2.state_dict())
    assert torch.equal(model(pixels).last_hidden_state, dinov2(pixels).last_hidden_state)


def test_heads_and_student_are_left_out_by_name(dinov2, repo_state):
    report = load_repo_weights(Dinov2Model(dinov2.config), training_checkpoint(repo_state))
    assert any(key.startswith("student.") for key in report.ignored)
    assert {"dino_head.mlp.0.weight", "ibot_head.last_layer.weight_v"} <= set(report.ignored)


@pytest.mark.parametrize("registers", [False, True])
def test_there_and_back_is_identical(request, registers):
    model = request.getfixturevalue("dinov2_registers" if registers else "dinov2")
    own = model.state_dict()
    back = repo_to_transformers(transformers_to_repo(own))
    assert set(back) == set(own)
    assert all(torch.equal(back[key], own[key]) for key in own)


def test_file_names_and_module_names_convert_alike(dinov2, tmp_path):
    dinov2.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    from_file, from_memory = transformers_to_repo(stored), transformers_to_repo(dinov2.state_dict())
    assert set(from_file) == set(from_memory)
    assert all(torch.equal(from_file[key], from_memory[key]) for key in from_file)


def test_gated_feed_forward_converts(pixels):
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=56,
        use_swiglu_ffn=True,
    )  # fmt: skip
    model = Dinov2Model(config).eval()
    state = transformers_to_repo(model.state_dict())
    assert "blocks.1.mlp.w12.weight" in state and "blocks.0.mlp.w3.bias" in state
    twin = Dinov2Model(repo_config(state)).eval()
    load_repo_weights(twin, state)
    assert torch.equal(twin(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_a_smaller_position_table_is_resized_with_a_warning_naming_both_grids(dinov2):
    state = transformers_to_repo(dinov2.state_dict())
    state["pos_embed"] = torch.randn(1, 257, 32)
    config = Dinov2Config(**{**dinov2.config.to_dict(), "image_size": 518})
    model = Dinov2Model(config)
    with pytest.warns(UserWarning, match=r"teacher\.pth.*16 x 16.*37 x 37"):
        report = load_repo_weights(model, state, source="teacher.pth")
    assert report.missing == report.unexpected == report.mismatched == ()
    table = model.embeddings.position_embeddings
    assert table.shape == (1, 1370, 32)
    square = state["pos_embed"][0, 1:].T.reshape(1, 32, 16, 16)
    expected = torch.nn.functional.interpolate(square, size=(37, 37), mode="bicubic")
    torch.testing.assert_close(table[0, 1:].T.reshape(1, 32, 37, 37), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc1.weight"), r"missing 1 .*layer\.1\.mlp\.fc1\.weight"),
        (lambda s: s.update({"blocks.3.norm1.weight": torch.ones(32)}), r"unexpected 1 .*layer\.3"),
        (lambda s: s.update({"norm.weight": torch.ones(8)}), r"layernorm\.weight \[8\]"),
        (lambda s: s.update({"decoder.weight": torch.ones(8)}), r"decoder\.weight"),
        (lambda s: s.update({"blocks.0.attn.gate": torch.ones(8)}), r"blocks\.0\.attn\.gate"),
        (lambda s: s.update({"pos_embed": torch.randn(1, 15, 32)}), "14 patches is not square"),
        (lambda s: s.update({"blocks.0.0.norm1.weight": torch.ones(32)}), "two keys name"),
    ],
)
def test_anything_else_is_refused_by_name(dinov2, repo_state, change, named):
    change(repo_state)
    with pytest.raises(WeightsError, match=named):
        load_repo_weights(Dinov2Model(dinov2.config), repo_state)


def test_keys_of_another_model_are_not_exported(dinov2):
    state = dict(dinov2.state_dict())
    state["pooler.dense.weight"] = torch.ones(2)
    with pytest.raises(WeightsError, match=r"pooler\.dense\.weight"):
        transformers_to_repo(state)


def test_a_lone_query_is_not_exported(dinov2):
    state = {key: value for key, value in dinov2.state_dict().items() if ".v_proj" not in key}
    with pytest.raises(WeightsError, match=r"incomplete.*q_proj"):
        transformers_to_repo(state)


def test_the_architecture_follows_from_the_shapes(dinov2_registers):
    state = transformers_to_repo(dinov2_registers.state_dict())
    config = repo_config(state, num_heads=2)
    own = dinov2_registers.config
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size",
                 "image_size", "mlp_ratio", "num_register_tokens"):  # fmt: skip
        assert getattr(config, name) == getattr(own, name), name
    with pytest.raises(WeightsError, match="num_heads"):
        repo_config(state)
    with pytest.raises(WeightsError, match="pos_embed missing"):
        repo_config({key: value for key, value in state.items() if key != "pos_embed"})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_loads_by_its_path_with_preprocessing_beside_it(tmp_path, suffix):
    config = Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=56)
    model = Dinov2Model(config).eval()
    path = tmp_path / f"teacher{suffix}"
    state = {key: value.clone() for key, value in transformers_to_repo(model.state_dict()).items()}
    if suffix == ".pth":
        torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        load_encoder(path)
    RAD_DINO.write(tmp_path)
    encoder = load_encoder(path, image_size=56)
    pixels = torch.randn(1, 3, 56, 56)
    assert torch.equal(encoder.encode(pixels).cls, model(pixels).last_hidden_state[:, 0])
    assert encoder.preprocessing == RAD_DINO.with_image_size(56)
    assert encoder.position_interpolation == "scale_offset"
    assert len(encoder.load_report.loaded) == len(model.state_dict())


def test_a_file_with_code_in_it_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm done",)

    torch.save({"teacher": Harm()}, tmp_path / "teacher.pth")
    with pytest.raises(WeightsError, match=r"teacher\.pth.*can run code"):
        load_encoder(tmp_path / "teacher.pth")


@pytest.mark.parametrize("registers", [0, 4])
class TestOriginalRepository:
    """Outputs of facebookresearch/dinov2 itself, dinov2_vit_reg{0,4}.safetensors."""

    @pytest.fixture
    def reference(self, shared_parity, registers):
        return load_file(shared_parity / f"dinov2_vit_reg{registers}.safetensors")

    @pytest.fixture
    def state(self, reference):
        return {
            key.removeprefix("model."): tensor
            for key, tensor in reference.items()
            if key.startswith("model.")
        }

    @pytest.fixture
    def encoder(self, state, tmp_path):
        save_file(state, tmp_path / "vit.safetensors")
        return load_repo_encoder(tmp_path / "vit.safetensors", preprocessing=RAD_DINO, num_heads=3)

    @pytest.mark.parametrize(
        ("size", "tolerance"),
        [("518x518", 2e-3), ("224x224", 1e-5), ("98x98", 1e-5), ("224x280", 1e-5)],
    )
    def test_equal_tokens(self, encoder, reference, size, tolerance):
        output = encoder.encode(reference[f"io.{size}.x"].float())
        torch.testing.assert_close(output.cls, reference[f"io.{size}.cls"], atol=tolerance, rtol=0)
        torch.testing.assert_close(
            output.patches, reference[f"io.{size}.patch"].float(), atol=tolerance, rtol=0
        )

    def test_equal_tokens_with_masks(self, encoder, reference):
        output = encoder.encode(reference["io.masked.x"], reference["io.masked.masks"])
        torch.testing.assert_close(output.cls, reference["io.masked.cls"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.patches, reference["io.masked.patch"], atol=1e-5, rtol=0)

    def test_export_gives_the_original_file_back(self, encoder, state, tmp_path):
        encoder.save_pretrained(tmp_path / "folder")
        exported = transformers_to_repo(load_file(tmp_path / "folder" / "model.safetensors"))
        assert set(exported) == set(state)
        assert all(torch.equal(exported[key], state[key]) for key in state)

    def test_saved_folder_keeps_the_original_tokens(self, encoder, reference, tmp_path):
        encoder.save_pretrained(tmp_path / "folder")
        output = load_encoder(tmp_path / "folder").encode(reference["io.98x98.x"])
        torch.testing.assert_close(output.patches, reference["io.98x98.patch"], atol=1e-5, rtol=0)

    def test_the_other_convention_is_visibly_another(self, state, reference, tmp_path):
        save_file(state, tmp_path / "vit.safetensors")
        encoder = load_repo_encoder(
            tmp_path / "vit.safetensors",
            preprocessing=RAD_DINO,
            num_heads=3,
            position_interpolation="size",
        )
        output = encoder.encode(reference["io.98x98.x"])
        assert (output.patches - reference["io.98x98.patch"]).abs().max() > 1e-2

    def test_architecture(self, encoder, registers):
        expected = Dinov2WithRegistersModel if registers else Dinov2Model
        assert isinstance(encoder.model, expected)
        assert encoder.num_registers == registers
        assert math.isqrt(encoder.num_tokens) == 37

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Dinov2Config, Dinov2Model

from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.errors import ConfigError, ModelError, WeightsError


@pytest.fixture(params=["dinov2", "dinov2_registers"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def encoder(model, preprocessing):
    return Dinov2Encoder(model, preprocessing)


@pytest.fixture
def folder(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def registers_of(model) -> int:
    return getattr(model.config, "num_register_tokens", 0)


def test_tokens_are_transformers_after_the_final_norm_without_registers(encoder, model, pixels):
    output = encoder.encode(pixels)
    expected = model(pixels, output_hidden_states=True)
    first = 1 + registers_of(model)
    assert output.cls.shape == (2, 32)
    assert output.patches.shape == (2, encoder.num_tokens, 32) == (2, 16, 32)
    assert torch.equal(output.cls, expected.last_hidden_state[:, 0])
    assert torch.equal(output.patches, expected.last_hidden_state[:, first:])
    assert (output.patches - expected.hidden_states[-1][:, first:]).abs().max() > 1e-2


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_layer_gives_a_blocks_output_before_any_norm(model, preprocessing, pixels, layer):
    output = Dinov2Encoder(model, preprocessing, layer=layer).encode(pixels)
    hidden = model(pixels, output_hidden_states=True).hidden_states[layer]
    assert torch.equal(output.patches, hidden[:, 1 + registers_of(model) :])
    assert torch.equal(output.cls, hidden[:, 0])


@pytest.mark.parametrize("layer", [0, 1, -4])
def test_layers_that_do_not_exist_are_refused(model, preprocessing, layer):
    with pytest.raises(ConfigError, match="-1 to -3"):
        Dinov2Encoder(model, preprocessing, layer=layer)


@pytest.mark.parametrize("size", [(56, 56), (84, 84), (28, 70), (98, 42)])
def test_other_sizes_equal_transformers(encoder, model, size):
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    output = encoder.encode(pixels)
    expected = model(pixels).last_hidden_state[:, 1 + registers_of(model) :]
    assert encoder.grid(*size) == (size[0] // 14, size[1] // 14)
    torch.testing.assert_close(output.patches, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [518, 224, 98, 546, 602, 1092])
def test_sides_around_a_table_of_37_equal_transformers(preprocessing, side):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=518
    )
    model = Dinov2Model(config).eval()
    encoder = Dinov2Encoder(model, preprocessing, position_interpolation="size")
    pixels = torch.randn(1, 3, side, 56, generator=torch.Generator().manual_seed(2))
    output = encoder.encode(pixels)
    assert output.patches.shape[1] == side // 14 * 4
    expected = model(pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(output.patches, expected, atol=1e-4, rtol=0)


def test_sizes_that_do_not_divide_into_patches_are_refused(encoder):
    with pytest.raises(ModelError, match=r"57 x 56.*multiples of 14"):
        encoder.encode(torch.zeros(1, 3, 57, 56))
    with pytest.raises(ModelError, match=r"\[batch, 3, height, width\], got \[3, 56, 56\]"):
        encoder.encode(torch.zeros(3, 56, 56))


def test_masked_patches_are_hidden_from_the_encoder(encoder, pixels):
    masks = torch.zeros(2, 16, dtype=torch.bool)
    assert torch.equal(encoder.encode(pixels, masks).patches, encoder.encode(pixels).patches)
    masks[0, 5] = True
    changed = pixels.clone()
    changed[0, :, 14:28, 14:28] = 9.0  # patch 5: row 1, column 1
    torch.testing.assert_close(encoder.encode(pixels, masks), encoder.encode(changed, masks))
    assert not torch.allclose(encoder.encode(pixels).patches, encoder.encode(changed).patches)
    with pytest.raises(ModelError, match=r"masks bool \[2, 16\]"):
        encoder.encode(pixels, masks[:, :9])


def test_an_encoder_without_mask_token_refuses_masks(preprocessing, pixels):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=56,
        use_mask_token=False,
    )  # fmt: skip
    encoder = Dinov2Encoder(Dinov2Model(config), preprocessing)
    with pytest.raises(ModelError, match="mask token"):
        encoder.encode(pixels, torch.zeros(2, 16, dtype=torch.bool))


def test_it_is_frozen_and_stays_in_evaluation_mode(preprocessing, pixels):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=56,
        hidden_dropout_prob=0.5,
    )  # fmt: skip
    encoder = Dinov2Encoder(Dinov2Model(config).train(), preprocessing)
    parent = torch.nn.Sequential(encoder).train()
    assert parent.training and not encoder.training and not encoder.model.training
    assert torch.equal(parent(pixels).cls, encoder.encode(pixels).cls)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(pixels).patches.requires_grad


def test_gradients_reach_the_input_for_saliency(encoder, pixels):
    pixels.requires_grad_(True)
    encoder.encode(pixels).cls.sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().max() > 0


def test_saved_and_loaded_it_is_the_same(encoder, folder, pixels):
    loaded = load_encoder(folder)
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.preprocessing == encoder.preprocessing
    assert torch.equal(loaded.encode(pixels).patches, encoder.encode(pixels).patches)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert (loaded.dim, loaded.patch_size, loaded.image_size, loaded.depth) == (32, 14, 56, 3)


@pytest.mark.parametrize("convention", ["size", "size_antialias", "scale_offset"])
def test_layer_and_position_interpolation_travel_with_the_weights(
    model, preprocessing, tmp_path, convention
):
    encoder = Dinov2Encoder(model, preprocessing, layer=-2, position_interpolation=convention)
    encoder.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    pixels = torch.randn(1, 3, 84, 98)
    assert (loaded.layer, loaded.position_interpolation) == (-2, convention)
    assert torch.equal(loaded.encode(pixels).patches, encoder.encode(pixels).patches)
    assert load_encoder(tmp_path, layer=-1).layer == -1


@pytest.mark.parametrize(
    ("convention", "options"),
    [
        ("size", {"size": (6, 3)}),
        ("size_antialias", {"size": (6, 3), "antialias": True}),
        ("scale_offset", {"scale_factor": (6.1 / 4, 3.1 / 4)}),
    ],
)
def test_each_convention_adds_its_own_positions(model, preprocessing, convention, options):
    """The same as an encoder whose table already is of that grid."""
    pixels = torch.randn(1, 3, 84, 42, generator=torch.Generator().manual_seed(5))
    encoder = Dinov2Encoder(model, preprocessing, position_interpolation=convention)
    tokens = encoder.encode(pixels).patches

    table = model.embeddings.position_embeddings
    square = table[0, 1:].T.reshape(1, 32, 4, 4)
    resized = torch.nn.functional.interpolate(square, mode="bicubic", **options)
    expected = torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], 1)
    model.embeddings.interpolate_pos_encoding = lambda *_: expected
    own = model(pixels).last_hidden_state[:, 1 + registers_of(model) :]
    torch.testing.assert_close(tokens, own, atol=1e-5, rtol=0)


def test_plain_transformers_loads_the_folder(encoder, folder, pixels):
    model = AutoModel.from_pretrained(folder)
    assert torch.equal(model(pixels).last_hidden_state[:, 0], encoder.encode(pixels).cls)


def test_folder_that_plain_transformers_wrote_loads(model, preprocessing, tmp_path, pixels):
    model.save_pretrained(tmp_path)
    preprocessing.write(tmp_path)
    loaded = load_encoder(tmp_path)
    assert torch.equal(loaded.encode(pixels).cls, model(pixels).last_hidden_state[:, 0])


def test_sharded_folder_loads(model, preprocessing, tmp_path, pixels):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    preprocessing.write(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = load_encoder(tmp_path)
    assert torch.equal(loaded.encode(pixels).cls, model(pixels).last_hidden_state[:, 0])


def test_report_counts_every_tensor(folder):
    report = load_encoder(folder).load_report
    assert set(report.loaded) == set(load_encoder(folder).model.state_dict())
    assert report.missing == report.unexpected == report.mismatched == ()


def spoil(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_missing_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.pop("layernorm.weight"))
    with pytest.raises(WeightsError, match=r"missing 1 \(layernorm\.weight\)"):
        load_encoder(folder)


def test_an_unexpected_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.update({"adapter.weight": torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r"unexpected 1 \(adapter\.weight\)"):
        load_encoder(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    spoil(folder, lambda tensors: tensors.update({"layernorm.bias": torch.zeros(48)}))
    with pytest.raises(WeightsError, match=r"layernorm\.bias \[48\] against \[32\]"):
        load_encoder(folder)


def test_a_classifier_on_top_is_left_out_and_reported(folder):
    spoil(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(2, 64)}))
    assert load_encoder(folder).load_report.ignored == ("classifier.weight",)


def test_a_cut_file_is_a_weights_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder(folder)


def test_a_pickle_that_runs_code_is_refused(folder):
    class Harm:
        def __reduce__(self):
            return print, ("harm done",)

    (folder / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError):
        load_encoder(folder)


def test_folder_without_weights_or_preprocessing_is_refused(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        load_encoder(folder)
    given = Preprocessing(image_size=56, mean=0.5, std=0.5)
    assert load_encoder(folder, preprocessing=given).preprocessing == given
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights"):
        load_encoder(folder, preprocessing=given)


def test_a_configuration_of_wrong_values_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(WeightsError, match=r"config\.json.*hidden_size"):
        load_encoder(folder)


def test_bfloat16_tokens_are_close_to_float32(folder, pixels):
    half = load_encoder(folder, dtype="bfloat16")
    tokens = half.encode(pixels).patches
    assert tokens.dtype == torch.bfloat16
    exact = load_encoder(folder).encode(pixels).patches
    assert (tokens.float() - exact).abs().mean() < 0.02 * exact.abs().mean()
    assert half.encode(torch.randn(1, 3, 84, 84)).patches.shape == (1, 36, 32)


def test_half_precision_files_load_as_float32(model, preprocessing, tmp_path):
    model.half().save_pretrained(tmp_path)
    preprocessing.write(tmp_path)
    assert load_encoder(tmp_path).dtype == torch.float32


def test_fingerprint_follows_all_that_tokens_depend_on(folder, encoder):
    own = encoder.fingerprint()
    smaller = load_encoder(folder, image_size=28)
    others = [
        load_encoder(folder, layer=-2),
        load_encoder(folder, dtype=torch.bfloat16),
        smaller,
        Dinov2Encoder(
            load_encoder(folder).model, encoder.preprocessing,
            position_interpolation="scale_offset",
        ),
    ]  # fmt: skip
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[-1].add_(1e-3)
    prints = {own, encoder.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 6 and all(len(value) == 64 for value in prints)
    assert smaller.image_size == 28 and smaller.num_tokens == 4


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_interpolates_with_its_own_table(model, preprocessing, copier):
    encoder = Dinov2Encoder(model, preprocessing, position_interpolation="scale_offset")
    twin = copier(encoder)
    pixels = torch.randn(1, 3, 84, 84)
    before = encoder.encode(pixels).patches
    with torch.no_grad():
        twin.model.embeddings.position_embeddings.zero_()
    assert torch.equal(encoder.encode(pixels).patches, before)
    assert not torch.equal(twin.encode(pixels).patches, before)


@pytest.mark.parametrize("layer", [[], "last", 0, -9])
def test_a_recorded_layer_that_is_none_is_refused(dinov2, preprocessing, tmp_path, layer):
    Dinov2Encoder(dinov2, preprocessing).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "feature_layer": layer}))
    with pytest.raises(ConfigError, match="does not exist in an encoder of 3 blocks"):
        load_encoder(tmp_path)

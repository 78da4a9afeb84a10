"""LLaVA checkpoints of every kind, against transformers' Llava with the same weights."""

import copy
import itertools
import json
import os
import shutil

import pytest
import timm
import torch
from helpers.tiny_checkpoints import (
    PREPROCESSING,
    logits_by_transformers,
    logits_of,
    randomise,
    request,
    write_json,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, LlavaImageProcessorPil

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.timm_vit import TimmEncoder
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.interchange import convert
from llava_rad.model import LLAVA_RAD, PromptTemplate, ReportModel
from llava_rad.reports.generate import GenerationSettings, generate_reports

TWO = (request(1), request(2, indication=None))


def shard(state, folder, endings):
    """Write a state dict in two files with an index, as large models are."""
    name, save = endings
    keys = sorted(state)
    files = {f"{name}-{n}-of-2": keys[n - 1 :: 2] for n in (1, 2)}
    suffix = ".bin" if save is torch.save else ".safetensors"
    for file, part in files.items():
        save({k: state[k].contiguous() for k in part}, folder / f"{file}{suffix}")
    weight_map = {k: f"{file}{suffix}" for file, part in files.items() for k in part}
    write_json(folder / f"{name}{suffix}.index.json", {"weight_map": weight_map})


@pytest.fixture
def full(place, llava_config, llm, projector, tokenizer):
    """All weights in one folder."""

    def make(endings=("model", save_file), extra=None, **settings):
        folder = place / "full"
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "config.json", {**llava_config, **settings})
        tokenizer.save_pretrained(folder)
        shard({**llm.state_dict(), **projector, **(extra or {})}, folder, endings)
        return folder

    return make


@pytest.fixture
def stage_one(place, llava_config, projector):
    def make(extra=None, **settings):
        folder = place / "aligned"
        write_json(folder / "config.json", {**llava_config, **settings})
        torch.save({**projector, **(extra or {})}, folder / "mm_projector.bin")
        return folder

    return make


@pytest.fixture
def with_lora(place, llava_config, projector, lora):
    def make(extra=None, weights="adapter_model.bin", **settings):
        folder = place / "tuned"
        lora.save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        if weights.endswith(".bin"):
            torch.save(load_file(file), folder / weights)
            file.unlink()
        write_json(folder / "config.json", {**llava_config, **settings})
        trained = {f"base_model.model.{k}": t for k, t in {**projector, **(extra or {})}.items()}
        torch.save(trained, folder / "non_lora_trainables.bin")
        return folder

    return make


@pytest.fixture
def tuned_reference(reference, lora, llm):
    """The reference with the LoRA added to its LLM, computed here: W + alpha / r * B A."""
    tuned = copy.deepcopy(reference)
    state = tuned.model.language_model.state_dict()
    loras = {k.replace("base_model.model.model.", ""): v for k, v in lora.state_dict().items()}
    for key in [k for k in loras if ".lora_A." in k]:
        name = key.replace(".lora_A.default", "")
        update = loras[key.replace("lora_A", "lora_B")] @ loras[key]
        state[name] = state[name] + 12 / 4 * update
    tuned.model.language_model.load_state_dict(state)
    return tuned


def require_equal(model, llava, requests=TWO, **options):
    wanted = logits_by_transformers(llava, model, *requests, **options)
    for found, expected in zip(logits_of(model, *requests), wanted, strict=True):
        torch.testing.assert_close(found, expected[:, : found.shape[1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("endings", [("model", save_file), ("pytorch_model", torch.save)])
def test_full_weights_give_the_logits_of_transformers(full, reference, tmp_path, endings):
    report = convert(full(endings), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert (report.layout, model.config.llm_weights) == ("llava-full", "full")
    assert report.tensors["llm"] == 21 and report.tensors["adapter"] == 4
    require_equal(model, reference)


def test_a_converted_model_reports_and_keeps_no_link_to_its_source(full, tmp_path):
    folder = full()
    convert(folder, tmp_path / "out", name="converted")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "clip")
    shutil.rmtree(tmp_path / "base")
    model = ReportModel.from_pretrained(tmp_path / "out")
    settings = GenerationSettings(max_new_tokens=5)
    reports = generate_reports(model, TWO, settings)
    assert [r.model for r in reports] == ["converted"] * 2
    assert reports[0].tokens == 5
    assert model.config.training["converted_from"]["layout"] == "llava-full"


def test_the_projector_alone_goes_on_the_named_llm(stage_one, reference, tmp_path):
    report = convert(stage_one(), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert (report.layout, model.config.llm_weights) == ("llava-projector", "base")
    assert not (tmp_path / "out" / "llm").exists()
    require_equal(model, reference)


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_lora_is_kept_apart_and_scaled(with_lora, tuned_reference, reference, tmp_path, weights):
    report = convert(with_lora(weights=weights), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert (report.layout, model.config.llm_weights) == ("llava-lora", "lora")
    assert report.tensors["lora"] == 28
    require_equal(model, tuned_reference)
    with pytest.raises(AssertionError):
        require_equal(model, reference)


def test_embeddings_trained_beside_a_lora_take_effect(with_lora, tuned_reference, llm, tmp_path):
    embeddings = 0.5 * llm.model.embed_tokens.weight.detach()
    convert(with_lora({"model.embed_tokens.weight": embeddings}), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert model.config.llm_weights == "full"  # base LLM and LoRA alone would be another model
    with torch.no_grad():
        tuned_reference.model.language_model.embed_tokens.weight.mul_(0.5)
    require_equal(model, tuned_reference)


def test_a_lora_on_top_of_a_llava_model_is_merged_into_that_ones_llm(
    full, with_lora, place, tuned_reference, tmp_path
):
    base = full()
    shutil.rmtree(place / "base")
    convert(with_lora(), tmp_path / "out", base_llm=base)
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert model.config.llm_weights == "full"
    require_equal(model, tuned_reference)


def other_tower(reference):
    tower = CLIPVisionModel(reference.config.vision_config)
    tower.load_state_dict(reference.model.vision_tower.state_dict())
    return randomise(tower, seed=9)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "unfrozen"])
def test_vision_weights_inside_count_only_where_they_were_trained(
    full, reference, tmp_path, trained
):
    tower = other_tower(reference)
    stored = {
        f"model.vision_tower.vision_tower.vision_model.{k}": t
        for k, t in tower.state_dict().items()
    }
    report = convert(full(extra=stored, unfreeze_mm_vision_tower=trained), tmp_path / "out")
    expected = copy.deepcopy(reference)
    if trained:
        expected.model.vision_tower = tower
        assert not report.ignored
    else:
        assert set(report.ignored) == set(stored)
        assert any(note.startswith("tower:") for note in report.notes)
    require_equal(ReportModel.from_pretrained(tmp_path / "out"), expected)


def test_padded_images_are_padded_as_the_llava_code_pads_them(stage_one, reference, tmp_path):
    convert(stage_one(image_aspect_ratio="pad"), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert model.processor.preprocessing.geometry == "pad_square"
    settings = {k: v for k, v in PREPROCESSING.items() if k != "image_processor_type"}
    processor = LlavaImageProcessorPil(**settings, do_pad=True)
    pixels = torch.cat(
        [
            processor(r.images[0].radiograph.pixels[..., None].repeat(3, -1), return_tensors="pt")[
                "pixel_values"
            ]
            for r in TWO
        ]
    )
    torch.testing.assert_close(model.processor.pixel_values(TWO), pixels, atol=1e-6, rtol=0)
    require_equal(model, reference, pixel_values=pixels)


@pytest.mark.parametrize(("index", "layer"), [(-1, -1), (3, -1), (2, -2), (-3, -3)])
def test_the_layer_counts_from_the_embeddings_as_there(
    stage_one, reference, tmp_path, index, layer
):
    convert(stage_one(mm_vision_select_layer=index), tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert model.encoder.layer == layer
    expected = copy.deepcopy(reference)
    expected.config.vision_feature_layer = expected.model.config.vision_feature_layer = index
    require_equal(model, expected)


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), (None, 1), ("mlp3x_gelu", 3)])
def test_projectors_of_other_depth(place, llava_config, tokenizer, tmp_path, kind, layers):
    torch.manual_seed(0)
    widths = [32, *[48] * layers]
    linear = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    steps = [step for one in linear for step in (one, torch.nn.GELU())][:-1]
    own = torch.nn.Sequential(*steps) if kind != "linear" and kind else linear[0]
    folder = place / "aligned"
    settings = {k: v for k, v in llava_config.items() if k != "mm_projector_type"}
    write_json(folder / "config.json", settings | ({"mm_projector_type": kind} if kind else {}))
    state = {f"model.mm_projector.{k}": t for k, t in own.state_dict().items()}
    torch.save(state, folder / "mm_projector.bin")
    convert(folder, tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    patches = torch.randn(2, 4, 32)
    torch.testing.assert_close(model.image_tokens(patches), own(patches))


def test_the_prompt_is_llava_rads_unless_told(stage_one, tmp_path):
    folder = stage_one()
    report = convert(folder, tmp_path / "out")
    assert any(note.startswith("prompt:") for note in report.notes)
    assert ReportModel.from_pretrained(tmp_path / "out").processor.template == PromptTemplate(
        **LLAVA_RAD
    )
    own = PromptTemplate(**{**LLAVA_RAD, "instruction": "Describe."})
    report = convert(folder, tmp_path / "own", template=own)
    assert not report.notes
    assert ReportModel.from_pretrained(tmp_path / "own").processor.template == own


def test_recorded_places_are_seen_from_here_and_from_the_checkpoint(
    stage_one, place, reference, tmp_path, monkeypatch
):
    folder = stage_one(mm_vision_tower="clip", _name_or_path="base")
    monkeypatch.chdir(place)
    convert(folder, tmp_path / "out")
    monkeypatch.chdir("/")
    require_equal(ReportModel.from_pretrained(tmp_path / "out"), reference)
    (place / "clip").rename(folder / "clip")
    (place / "base").rename(folder / "base")
    convert(folder, tmp_path / "again")
    require_equal(ReportModel.from_pretrained(tmp_path / "again"), reference)


def test_the_folders_name_says_nothing(with_lora, tuned_reference, tmp_path):
    folder = with_lora().rename(tmp_path / "checkpoint-300")
    convert(folder, tmp_path / "out")
    require_equal(ReportModel.from_pretrained(tmp_path / "out"), tuned_reference)


def test_weights_keep_the_precision_they_were_stored_in_or_are_given(full, tmp_path):
    folder = full()
    weights = {k: t.half() for f in folder.glob("*.safetensors") for k, t in load_file(f).items()}
    for file in folder.glob("model-*"):
        file.unlink()
    shard(weights, folder, ("model", save_file))
    for name, dtype, llm, rest in (
        ("as-stored", None, torch.float16, torch.float32),
        ("smaller", torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ):
        convert(folder, tmp_path / name, dtype=dtype)
        written = load_file(tmp_path / name / "llm" / "model.safetensors")
        assert {t.dtype for t in written.values()} == {llm}
        adapter = load_file(tmp_path / name / "adapter.safetensors")
        assert {t.dtype for t in adapter.values()} == {rest}
        ReportModel.from_pretrained(tmp_path / name)


class TestOpenClipTower:
    """LLaVA-Rad's way of naming its tower: a JSON and a checkpoint."""

    @pytest.fixture
    def trunk(self):
        return randomise(timm.create_model("vit_interchange_test", num_classes=0))

    @pytest.fixture
    def checkpoint(self, stage_one, trunk, place):
        vision = {"timm_model_name": "vit_interchange_test", "image_size": 28, "timm_pool": ""}
        write_json(place / "tower.json", {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {}})
        state = {f"module.visual.trunk.{k}": t.half() for k, t in trunk.state_dict().items()}
        state |= {"module.text.token_embedding.weight": torch.ones(2, 2)}
        torch.save({"epoch": 1, "state_dict": state}, place / "tower.pt")
        return stage_one(
            mm_vision_tower="a_name",
            mm_vision_tower_config=str(place / "tower.json"),
            mm_vision_tower_checkpoint=str(place / "tower.pt"),
        )

    def test_tokens_are_those_of_the_last_but_one_block_without_cls(
        self, checkpoint, trunk, reference, tmp_path
    ):
        convert(checkpoint, tmp_path / "out")
        model = ReportModel.from_pretrained(tmp_path / "out")
        trunk.half().float()
        seen = {}
        trunk.blocks[1].register_forward_hook(lambda *given: seen.update(tokens=given[2]))
        pixels = model.processor.pixel_values(TWO)
        with torch.no_grad():
            trunk(pixels)
            expected = reference.model.multi_modal_projector(seen["tokens"][:, 1:])
            found = model.image_tokens(model.encode_images(pixels))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    def test_places_given_count_more_than_recorded_ones(self, checkpoint, place, tmp_path):
        (place / "tower.json").rename(place / "described.json")
        (place / "tower.pt").rename(place / "moved-tower.pt")
        with pytest.raises(WeightsError, match=r"tower.*checkpoint is not here.*vision_tower"):
            convert(checkpoint, tmp_path / "out")
        given = {"vision_tower": place / "moved-tower.pt"}
        with pytest.raises(WeightsError, match=r"JSON of the vision tower is not here"):
            convert(checkpoint, tmp_path / "out", **given)
        convert(checkpoint, tmp_path / "out", **given, vision_config=place / "described.json")
        # A JSON of the checkpoint's name beside it needs no telling.
        (place / "described.json").rename(place / "moved-tower.json")
        convert(checkpoint, tmp_path / "again", **given)

    def test_a_tower_of_another_size_than_its_positions_is_refused(
        self, checkpoint, place, tmp_path
    ):
        described = json.loads((place / "tower.json").read_text())
        described["vision_cfg"]["image_size"] = 56
        write_json(place / "tower.json", described)
        with pytest.raises(ModelError, match="images of 56 pixels with positions for 28"):
            convert(checkpoint, tmp_path / "out")

    def test_a_tower_with_registers_is_refused(self, checkpoint, place, tmp_path):
        trunk = timm.create_model("vit_interchange_test", num_classes=0, reg_tokens=2)
        timm_folder = place / "registers"
        TimmEncoder(
            trunk,
            Preprocessing(image_size=28, mean=0.5, std=0.5),
            architecture="vit_interchange_test",
            model_args={"reg_tokens": 2},
        ).save_pretrained(timm_folder)
        with pytest.raises(ModelError, match="3 tokens before the patch tokens"):
            convert(checkpoint, tmp_path / "out", vision_tower=timm_folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
        ({"mm_projector_type": "identity"}, "mm_projector_type 'identity'"),
        ({"mm_vision_select_layer": None}, r"features of several layers \(None\)"),
        ({"mm_vision_select_layer": -4}, "layer -4 of 3 blocks"),
        ({"rope_theta": 10000.0}, "not the one of the checkpoint.*rope_parameters"),
        ({"intermediate_size": 80}, "not the one of the checkpoint.*intermediate_size 96"),
        ({"model_type": "llava_mpt"}, "'llava_mpt' is not a supported LLaVA model"),
    ],
)
def test_what_the_model_cannot_express_is_refused(stage_one, tmp_path, settings, message):
    with pytest.raises(ModelError, match=message):
        convert(stage_one(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tower_of_another_width_is_refused(stage_one, tmp_path):
    with pytest.raises(WeightsError, match="gives 32 dims, the projector takes 64"):
        convert(stage_one(mm_hidden_size=64), tmp_path / "out")


class TestEveryTensorCounts:
    def test_too_many(self, stage_one, with_lora, full, tmp_path):
        strange = {"model.image_newline": torch.ones(3)}
        for folder in (stage_one(strange), with_lora(strange)):
            with pytest.raises(WeightsError, match=r"the base LLM: model\.image_newline"):
                convert(folder, tmp_path / "out")
        with pytest.raises(WeightsError, match=r"unexpected 1 \(model.image_newline\)"):
            convert(full(extra=strange), tmp_path / "out")
        with pytest.raises(WeightsError, match="1 tensor has no place in the model: q_former"):
            convert(stage_one({"q_former.weight": torch.ones(1)}), tmp_path / "out")

    def test_too_few_in_the_projector(self, stage_one, projector, tmp_path):
        folder = stage_one()
        state = {k: t for k, t in projector.items() if not k.endswith("2.bias")}
        torch.save(state, folder / "mm_projector.bin")
        with pytest.raises(WeightsError, match=r"missing 1 \(layers.2.bias\)"):
            convert(folder, tmp_path / "out")

    def test_too_few_in_the_llm(self, full, llm, projector, tmp_path):
        folder = full()
        state = {k: t for k, t in llm.state_dict().items() if "layers.1.mlp.up" not in k}
        for file in folder.glob("model-*"):
            file.unlink()
        shard({**state, **projector}, folder, ("model", save_file))
        with pytest.raises(WeightsError, match=r"missing 1 \(model.layers.1.mlp.up_proj.weight"):
            convert(folder, tmp_path / "out")

    def test_too_few_and_too_many_in_the_lora(self, with_lora, tmp_path):
        folder = with_lora()
        file = folder / "adapter_model.bin"
        state = torch.load(file, weights_only=True)
        key = next(iter(state))
        torch.save({k: t for k, t in state.items() if k != key}, file)
        with pytest.raises(WeightsError, match="1 missing"):
            convert(folder, tmp_path / "out")
        torch.save({**state, key.replace("layers.0", "layers.7"): state[key]}, file)
        with pytest.raises(WeightsError, match="1 unexpected"):
            convert(folder, tmp_path / "out")
        torch.save({**state, key: state[key][:1]}, file)
        with pytest.raises(WeightsError, match="another shape"):
            convert(folder, tmp_path / "out")

    @pytest.mark.parametrize(
        "name", ["adapter_model.bin", "non_lora_trainables.bin", "config.json"]
    )
    def test_a_file_that_is_not_there_is_named(self, with_lora, tmp_path, name):
        folder = with_lora()
        (folder / name).unlink()
        with pytest.raises(WeightsError, match=name.split(".")[0]):
            convert(folder, tmp_path / "out")


class Touch:
    """A pickle that leaves a file behind when it is loaded without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mknod, (str(self.file),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin"])
def test_code_in_a_pickle_is_not_run(with_lora, tmp_path, name):
    folder = with_lora()
    torch.save({"a": Touch(tmp_path / "ran")}, folder / name)
    with pytest.raises(WeightsError, match="can run code"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_code_in_a_shard_is_not_run(full, tmp_path):
    folder = full(("pytorch_model", torch.save))
    torch.save({"a": Touch(tmp_path / "ran")}, folder / "pytorch_model-2-of-2.bin")
    with pytest.raises(WeightsError, match="can run code"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_lora_for_another_kind_of_llm_is_refused(with_lora, tmp_path):
    folder = with_lora()
    settings = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", {**settings, "target_modules": ["query_key_value"]})
    with pytest.raises(ModelError, match="LoRA does not fit the LLM"):
        convert(folder, tmp_path / "out")


def test_nothing_is_overwritten_or_converted_to_itself(stage_one, tmp_path):
    folder = stage_one()
    with pytest.raises(ConfigError, match="something already"):
        convert(folder, folder)
    convert(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="this project's format already"):
        convert(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ConfigError, match="unknown target 'gguf'"):
        convert(folder, tmp_path / "again", to="gguf")


def test_a_folder_of_another_kind_is_named(place, tmp_path):
    with pytest.raises(WeightsError, match="'llama' is of no layout"):
        convert(place / "base", tmp_path / "out")
    with pytest.raises(WeightsError, match="no such model folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")


def test_the_report_names_all_that_was_done(stage_one, tmp_path):
    report = convert(stage_one(), tmp_path / "out")
    text = str(report)
    assert "llava-projector" in text and "adapter 4" in text and "prompt:" in text
    assert json.loads(json.dumps(report.to_dict()))["tensors"] == report.tensors

"""transformers' Llava folders and MAIRA-2's, against transformers' own modules."""

import itertools
import json

import pytest
import torch
from helpers.tiny_checkpoints import (
    LLAMA,
    PREPROCESSING,
    logits_by_transformers,
    logits_of,
    randomise,
    request,
    write_json,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AddedToken,
    Dinov2Backbone,
    Dinov2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from llava_rad.errors import ModelError, WeightsError
from llava_rad.grounded_text import MARK
from llava_rad.interchange import convert
from llava_rad.model import LLAVA_RAD, ReportModel, read_prompt
from llava_rad.reports.generate import GenerationSettings, generate_reports

TWO = (request(1), request(2, indication=None))
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] if item.type == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item.type == 'text' %}{{ item.text }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@pytest.fixture
def folder(reference, tokenizer, tmp_path):
    folder = tmp_path / "llava"
    reference.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSING)
    return folder


def save_tokenizer(tokenizer, folder, tokens=("<image>",)):
    """The tokenizer with tokens besides, as it lies in such folders."""
    tokenizer.save_pretrained(folder)
    again = type(tokenizer).from_pretrained(folder)
    for token in tokens:  # MAIRA-2's marks of boxes are part of the text that it writes
        special = not MARK.fullmatch(token)
        added = AddedToken(token, special=special, normalized=False)
        again.add_tokens([added], special_tokens=special)
    again.save_pretrained(folder)


def rename(folder, changes):
    """Write the weights under other names."""
    weights = load_file(folder / "model.safetensors")
    renamed = {}
    for key, tensor in weights.items():
        old, new = next(pair for pair in changes if key.startswith(pair[0]))
        renamed[new + key.removeprefix(old)] = tensor
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **changes):
    write_json(
        folder / "config.json", {**json.loads((folder / "config.json").read_text()), **changes}
    )


NEW_NAMES = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
)


@pytest.mark.parametrize("names", ["as-saved", "in-memory"])
def test_gives_the_logits_of_transformers(folder, reference, tmp_path, names):
    if names == "in-memory":
        rename(folder, NEW_NAMES)
    report = convert(folder, tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert (report.layout, model.encoder.layer) == ("transformers-llava", -2)
    wanted = logits_by_transformers(reference, model, *TWO)
    for found, expected in zip(logits_of(model, *TWO), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    reports = generate_reports(model, TWO, GenerationSettings(max_new_tokens=4))
    assert len(reports) == 2


@pytest.mark.parametrize("where", ["jinja", "json", "tokenizer"])
def test_the_conversation_is_that_of_the_chat_template(folder, tmp_path, where):
    if where == "jinja":
        (folder / "chat_template.jinja").write_text(CHAT)
    elif where == "json":
        write_json(folder / "chat_template.json", {"chat_template": CHAT})
    else:
        file = folder / "tokenizer_config.json"
        write_json(file, {**json.loads(file.read_text()), "chat_template": CHAT})
    convert(folder, tmp_path / "out")
    template = ReportModel.from_pretrained(tmp_path / "out").processor.template
    assert (template.before, template.image_end, template.after) == ("USER: ", "\n", " ASSISTANT:")
    assert template.instruction == LLAVA_RAD["instruction"]


def test_without_a_chat_template_the_conversation_is_vicunas(folder, tmp_path):
    report = convert(folder, tmp_path / "out")
    template = ReportModel.from_pretrained(tmp_path / "out").processor.template
    assert template.before == LLAVA_RAD["before"]
    assert any("no chat template" in note for note in report.notes)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("{{ raise_exception('no images') }}", "cannot be used"),
        ("{{ messages[0].content[1].text }}", "does not put one image before the request"),
    ],
)
def test_a_chat_template_without_an_image_is_refused(folder, tmp_path, chat, message):
    (folder / "chat_template.jinja").write_text(chat)
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize("strategy", ["full", "default"])
def test_siglip_has_no_token_to_drop(tokenizer, tmp_path, strategy):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            **sizes, num_attention_heads=2, image_size=28, patch_size=14
        ),
        text_config=LlamaConfig(vocab_size=len(tokenizer) + 1, **LLAMA),
        image_token_index=len(tokenizer),
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
    )
    llava = randomise(LlavaForConditionalGeneration(config))
    folder = tmp_path / "llava"
    llava.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSING)
    if strategy == "default":
        with pytest.raises(ModelError, match="does not give all patch tokens"):
            convert(folder, tmp_path / "out")
        return
    convert(folder, tmp_path / "out")
    model = ReportModel.from_pretrained(tmp_path / "out")
    [found], [expected] = logits_of(model, TWO[0]), logits_by_transformers(llava, model, TWO[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
        ({"vision_feature_layer": [-2, -1]}, r"features of several layers \(\[-2, -1\]\)"),
        ({"vision_feature_layer": 0}, "layer 0 of 3 blocks"),
        ({"vision_config": {"model_type": "pixtral"}}, "of the kind 'pixtral' is not supported"),
        ({"vision_feature_select_strategy": "full"}, "does not give all patch tokens"),
    ],
)
def test_what_the_model_cannot_express_is_refused(folder, tmp_path, changes, message):
    configure(folder, **changes)
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "out")


def test_every_tensor_counts(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    for part, key in (
        ("LLM", "language_model.model.norm.weight"),
        ("vision tower", next(k for k in weights if "vision_tower" in k and "post" not in k)),
        ("projector", "multi_modal_projector.linear_2.bias"),
    ):
        rest = {k: t for k, t in weights.items() if k != key}
        save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=rf"{part}\).*missing 1"):
            convert(folder, tmp_path / "out")
    save_file({**weights, "query.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no place in the model: query\.weight"):
        convert(folder, tmp_path / "out")


class TestMaira2:
    """A folder as microsoft/maira-2 is laid out, with random weights."""

    TOKENS = ("<obj>", "</obj>", "<box>", "</box>", "<image>", "<prev_im>", "<lat_image>")
    CHAT = (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}You are an expert radiology assistant tasked with interpreting a chest X-ray "
        "study.  {% for message in messages %}{% if message['role'] == 'user' %}USER:  {% else %}"
        "ASSISTANT: {% endif %}{% for item in message['content'] %}{% if item['type'] == 'text' %}"
        "{{ item['text'] }}{% elif item['type'] == 'image' %}<image>{% endif %}{% endfor %}"
        "{% if message['role'] == 'user' %}  {% else %}{{eos_token}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    )

    @pytest.fixture
    def vision(self):
        return {
            "apply_layernorm": True,
            "architectures": ["Dinov2Model"],
            "hidden_size": 32,
            "image_size": 28,
            "layerscale_value": 1.0,
            "mlp_ratio": 4,
            "model_type": "dinov2",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "out_features": ["stage3"],
            "out_indices": [3],
            "patch_size": 14,
            "qkv_bias": True,
            "reshape_hidden_states": False,
            "stage_names": ["stem", "stage1", "stage2", "stage3"],
            "use_swiglu_ffn": False,
        }

    @pytest.fixture
    def modules(self, vision, tokenizer):
        torch.manual_seed(0)
        text = LlamaConfig(vocab_size=len(tokenizer) + len(self.TOKENS), **LLAMA)
        text.rope_parameters = {"rope_type": "linear", "factor": 1.5, "rope_theta": 10000.0}
        widths, steps = [32, 48, 48, 48, 48], []
        for a, b in itertools.pairwise(widths):
            steps += [torch.nn.Linear(a, b), torch.nn.GELU()]
        return {
            "vision_tower": randomise(Dinov2Backbone(Dinov2Config(**vision))),
            "multi_modal_projector": randomise(
                torch.nn.ModuleDict({"layers": torch.nn.Sequential(*steps[:-1])})
            ),
            "language_model": randomise(LlamaForCausalLM(text)),
        }

    @pytest.fixture
    def folder(self, modules, vision, tokenizer, tmp_path):
        folder = tmp_path / "maira"
        save_tokenizer(tokenizer, folder, self.TOKENS)
        state = {}
        for part, module in modules.items():
            published = {}
            if hasattr(module, "save_pretrained"):  # under the names of files, not of memory
                module.save_pretrained(tmp_path / part)
                published = load_file(tmp_path / part / "model.safetensors")
            state |= {f"{part}.{k}": t for k, t in (published or module.state_dict()).items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        text = {
            **LLAMA,
            "model_type": "llama",
            "rope_scaling": {"factor": 1.5, "type": "linear"},
            "rope_theta": 10000.0,
            "vocab_size": len(tokenizer) + len(self.TOKENS),
        }
        config = {
            "architectures": ["Maira2ForConditionalGeneration"],
            "auto_map": {"AutoConfig": "configuration_maira2.Maira2Config"},
            "hidden_size": 48,
            "image_seq_length": 576,
            "image_token_index": len(tokenizer) + 4,
            "model_type": "maira2",
            "multimodal_projector_bias": True,
            "pad_token_id": 0,
            "projector_hidden_act": "gelu",
            "projector_n_layers": 4,
            "text_config": text,
            "vision_config": vision,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
        }
        write_json(folder / "config.json", config)
        write_json(folder / "chat_template.json", {"chat_template": self.CHAT})
        write_json(
            folder / "preprocessor_config.json",
            {
                **PREPROCESSING,
                "image_processor_type": "BitImageProcessor",
                "image_mean": [0.5307] * 3,
                "image_std": [0.2583] * 3,
            },
        )
        return folder

    @torch.no_grad()
    def expected(self, modules, model, pixels):
        tower, projector, llm = modules.values()
        tokens = projector["layers"](tower(pixels).feature_maps[-1][:, 1:])[0]
        sample = torch.tensor(model.processor.encode(TWO[0]).input_ids)
        embeds = llm.get_input_embeddings()(sample.clamp_min(0))
        embeds[sample == -200] = tokens
        return llm(inputs_embeds=embeds[None]).logits[0]

    def test_logits_are_those_of_backbone_projector_and_llama(self, folder, modules, tmp_path):
        report = convert(folder, tmp_path / "out")
        model = ReportModel.from_pretrained(tmp_path / "out")
        assert report.layout == "maira-2"
        assert (model.encoder.layer, model.config.adapter.layers) == (None, 4)
        [found] = logits_of(model, TWO[0])
        wanted = self.expected(modules, model, model.processor.pixel_values([TWO[0]]))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("number", [0, 1])
    @pytest.mark.parametrize("template", ["in the folder", "missing"])
    def test_the_prompt_has_the_ids_of_the_published_one(
        self, folder, tokenizer, tmp_path, number, template
    ):
        if template == "missing":
            (folder / "chat_template.json").unlink()
        convert(folder, tmp_path / "out")
        processor = ReportModel.from_pretrained(tmp_path / "out").processor
        found = processor.encode(TWO[number]).input_ids
        published = type(tokenizer).from_pretrained(folder)
        text = (
            "You are an expert radiology assistant tasked with interpreting a chest X-ray study.  "
            f"USER:  Given the current frontal image only{'<image>' * 4} Provide a description of "
            "the findings in the radiology study in comparison to the prior frontal image. "
            f"INDICATION: {('cough', 'N/A')[number]} TECHNIQUE: N/A COMPARISON: N/A  ASSISTANT: "
        )
        wanted = published(text)["input_ids"]
        image = published.convert_tokens_to_ids("<image>")
        assert [image if i == -200 else i for i in found] == wanted

    def test_asked_for_boxes_it_keeps_them(self, folder, tokenizer, tmp_path):
        asked = read_prompt("maira_2_grounded")
        convert(folder, tmp_path / "out", template=asked)
        processor = ReportModel.from_pretrained(tmp_path / "out").processor
        assert "with bounding boxes indicating all locations" in processor.template.instruction
        assert processor.template.instruction.endswith("TECHNIQUE: N/A COMPARISON: N/A")
        written = "<obj>A nodule.<box><x1><y2><x3><y4></box></obj>"
        ids = processor.tokenizer(written, add_special_tokens=False)["input_ids"]
        assert {processor.tokenizer.convert_tokens_to_ids(mark) for mark in self.TOKENS[:4]} < {
            *ids
        }
        assert processor.decode(ids) == written
        # Trained on, they are no control tokens that would be taken out.
        assert processor.without_control(written) == written

    def test_a_single_stage_without_the_norm_is_a_layer(self, folder, vision, modules, tmp_path):
        changed = {**vision, "apply_layernorm": False, "out_features": ["stage2"]}
        configure(folder, vision_config={**changed, "out_indices": [2]})
        convert(folder, tmp_path / "out")
        model = ReportModel.from_pretrained(tmp_path / "out")
        assert model.encoder.layer == -2
        pixels = model.processor.pixel_values([TWO[0]])
        with torch.no_grad():
            states = modules["vision_tower"](pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(model.encode_images(pixels), states[2][:, 1:])

    @pytest.mark.parametrize(
        "changes",
        [
            {"reshape_hidden_states": True},
            {"out_features": ["stage2"], "out_indices": [2]},
        ],
    )
    def test_other_feature_maps_are_refused(self, folder, vision, tmp_path, changes):
        configure(folder, vision_config={**vision, **changes})
        with pytest.raises(ModelError, match="feature map -1 of the stages"):
            convert(folder, tmp_path / "out")

    def test_the_number_of_layers_is_the_configurations(self, folder, tmp_path):
        configure(folder, projector_n_layers=3)
        with pytest.raises(WeightsError, match=r"unexpected 2 \(layers.6.bias, layers.6.weight\)"):
            convert(folder, tmp_path / "out")

    def test_the_code_that_the_folder_names_is_neither_run_nor_asked_about(
        self, folder, tmp_path, monkeypatch
    ):
        for name in ("configuration_maira2", "modeling_maira2"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to trust code"))
        convert(folder, tmp_path / "out")
        assert not (tmp_path / "ran").exists()

    def test_it_cannot_go_on_to_transformers_llava(self, folder, tmp_path):
        with pytest.raises(ModelError, match="adapter of 4 layers"):
            convert(folder, tmp_path / "out", to="llava")
        assert not (tmp_path / "out").exists()


def test_preprocessing_is_not_assumed(folder, tmp_path):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="how to prepare images for these weights is unknown"):
        convert(folder, tmp_path / "out")


def test_a_folder_without_a_tokenizer_is_named(folder, tmp_path):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(WeightsError, match="the tokenizer cannot be loaded"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"image_token_index": 10**20}, "unsupported_setting"),
        ({"image_token_index": -1}, "unsupported_setting"),
        ({"image_token_index": "one"}, "bad_config"),
        ({"projector_hidden_act": 3}, "bad_config"),
        ({"text_config": {"model_type": "clip_vision_model"}}, "bad_config"),
        ({"text_config": {"model_type": "llama", "num_attention_heads": -4}}, "bad_config"),
        (
            {"text_config": {"model_type": "llama", "rope_parameters": {"rope_type": {}}}},
            "bad_config",
        ),
    ],
)
def test_settings_that_no_model_has_are_refused(folder, tmp_path, changes, kind):
    configure(folder, **changes)
    with pytest.raises((ModelError, WeightsError)) as caught:
        convert(folder, tmp_path / "out")
    assert caught.value.kind == kind
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()

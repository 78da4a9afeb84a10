"""A LLaVA-Rad checkpoint gives what LLaVA-Rad's own code gives; typical mistakes do not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from llava_rad.images import load_radiograph
from llava_rad.interchange import convert
from llava_rad.model import ReportModel, ReportRequest, RequestImage
from llava_rad.reports.generate import GenerationSettings, generate_reports

NAMES = ("pixel_values", "vision_features", "image_tokens", "inputs_embeds", "logits")


@pytest.fixture(scope="module")
def published(shared_parity):
    return shared_parity / "llava_rad_checkpoint"


@pytest.fixture(scope="module")
def expected(published):
    values = json.loads((published / "expected.json").read_text())
    return values, load_file(published / "expected.safetensors")


@pytest.fixture(scope="module")
def requests(published, expected):
    indication = expected[0]["question"].split("indication: ")[1]
    return [
        ReportRequest(
            (RequestImage("current_frontal", load_radiograph(published / name)),), indication
        )
        for name in expected[0]["images"]
    ]


def converted(source, published, output, **options):
    """Convert with the base LLM and the tower named, so that the working directory is free."""
    tower = published / "vision_tower"
    options = {
        "base_llm": published / "base_llm",
        "vision_tower": tower / "biomedclip_cxr_tiny_checkpoint.pt",
        "vision_config": tower / "biomedclip_cxr_tiny.json",
        **options,
    }
    report = convert(source, output, **options)
    return ReportModel.from_pretrained(output), report


@pytest.fixture(scope="module")
def model(published, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "model"
    return converted(published / "llava-rad-tiny", published, output)[0]


@torch.no_grad()
def outputs(model, request):
    """All that the reference file holds, for one request."""
    ids = torch.tensor([model.processor.encode(request).input_ids])
    pixels = model.processor.pixel_values([request])
    patches = model.encode_images(pixels)
    found = {
        "pixel_values": pixels,
        "vision_features": patches,
        "image_tokens": model.image_tokens(patches),
        "inputs_embeds": model.embed(ids, patches),
        "logits": model(ids, torch.ones_like(ids), patches=patches).logits,
    }
    return {name: tensor[0] for name, tensor in found.items()}


@torch.no_grad()
def generated(model, requests):
    """Ids of greedy decoding for both requests in one batch."""
    batch = model.processor.pad([model.processor.encode(r) for r in requests], "left")
    patches = model.encode_images(model.processor.pixel_values(requests))
    return model.llm.generate(
        inputs_embeds=model.embed(batch["input_ids"], patches),
        attention_mask=batch["attention_mask"],
        max_new_tokens=16,
        do_sample=False,
    ).tolist()


def difference(model, requests, expected):
    """Largest and mean absolute difference of the logits over both inputs."""
    gaps = torch.cat(
        [
            (outputs(model, r)["logits"] - expected[1][f"input_{n}.logits"]).abs().flatten()
            for n, r in enumerate(requests)
        ]
    )
    return gaps.max().item(), gaps.mean().item()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_the_reference(model, requests, expected, number, name):
    found = outputs(model, requests[number])[name]
    limits = expected[0]["tolerances"][name]
    torch.testing.assert_close(
        found,
        expected[1][f"input_{number}.{name}"],
        atol=limits["atol"],
        rtol=limits.get("rtol", 0),
    )


def test_generated_ids_and_reports_equal_the_reference(model, requests, expected):
    wanted = expected[0]["generation"]["generated_ids"]
    assert generated(model, requests) == wanted
    reports = generate_reports(model, requests, GenerationSettings(max_new_tokens=16))
    assert [r.findings for r in reports] == [model.processor.decode(ids) for ids in wanted]
    assert [r.tokens for r in reports] == [16, 16]


def test_recorded_places_are_found_from_the_folder_they_are_relative_to(
    published, requests, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(published)
    report = convert("llava-rad-tiny", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert (report.layout, report.ignored) == ("llava-lora", ())
    assert report.tensors == {"encoder": 150, "adapter": 4, "lora": 28, "llm": 21}
    found = ReportModel.from_pretrained(tmp_path / "model")
    assert difference(found, requests, expected)[0] < 1e-3


def test_transformers_llava_with_the_merged_weights_equals_the_reference(
    model, published, requests, expected, tmp_path
):
    from transformers import LlavaForConditionalGeneration

    model.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "llava", to="llava")
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    wanted = expected[0]["generation"]["generated_ids"]
    for number, request in enumerate(requests):
        ids = torch.tensor([model.processor.encode(request).input_ids])
        ids[ids == -200] = llava.config.image_token_index
        pixels = model.processor.pixel_values([request])
        with torch.no_grad():
            found = llava(input_ids=ids, pixel_values=pixels).logits[0, :, :1000]
            made = llava.generate(
                input_ids=ids, pixel_values=pixels, max_new_tokens=16, do_sample=False
            )
        torch.testing.assert_close(
            found, expected[1][f"input_{number}.logits"], atol=1e-3, rtol=1e-3
        )
        assert made[0, ids.shape[1] :].tolist() == wanted[number]


class TestMistakes:
    """Each changes the logits by exactly as much as it does in the original code."""

    @pytest.fixture
    def checkpoint(self, published, tmp_path):
        folder = tmp_path / "checkpoint"
        shutil.copytree(published / "llava-rad-tiny", folder)
        for file in [folder, *folder.iterdir()]:
            file.chmod(0o755)
        return folder

    @staticmethod
    def configure(file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    @staticmethod
    def retrain(folder, change):
        file = folder / "non_lora_trainables.bin"
        state = torch.load(file, weights_only=True)
        torch.save({**state, **change(state)}, file)

    @pytest.fixture
    def require(self, checkpoint, published, requests, expected, tmp_path):
        def check(control):
            found, report = converted(checkpoint, published, tmp_path / "model")
            largest, mean = difference(found, requests, expected)
            known = expected[0]["negative_controls"][control]
            assert largest == pytest.approx(known["logits_max_abs_diff"], abs=2e-3)
            assert mean == pytest.approx(known["logits_mean_abs_diff"], abs=2e-3)
            wanted = expected[0]["generation"]["generated_ids"]
            changed = [a != b for a, b in zip(generated(found, requests), wanted, strict=True)]
            assert changed == known["generation_changes"]
            return report

        return check

    def test_the_last_layer_instead_of_the_one_before(self, checkpoint, require):
        self.configure(checkpoint / "config.json", mm_vision_select_layer=-1)
        require("select_layer_-1")

    def test_no_lora(self, checkpoint, require):
        for file in checkpoint.glob("adapter_*"):
            file.unlink()
        file = checkpoint / "non_lora_trainables.bin"
        state = torch.load(file, weights_only=True)
        torch.save(
            {k.removeprefix("base_model.model."): t for k, t in state.items()},
            checkpoint / "mm_projector.bin",
        )
        require("lora_omitted")

    def test_a_lora_of_half_the_scale(self, checkpoint, require):
        self.configure(checkpoint / "adapter_config.json", lora_alpha=8)
        require("lora_scale_1_instead_of_2")

    def test_a_projector_of_zeros(self, checkpoint, require):
        self.retrain(checkpoint, lambda state: {k: 0 * t for k, t in state.items()})
        require("projector_zero")

    def test_embeddings_beside_the_lora(self, checkpoint, published, require):
        table = load_file(published / "base_llm" / "model.safetensors")["model.embed_tokens.weight"]
        key = "base_model.model.model.embed_tokens.weight"
        self.retrain(checkpoint, lambda state: {key: table / 2})
        require("embed_tokens_halved_in_non_lora")

    def test_vision_weights_beside_the_lora_are_left_out_and_said_so(self, checkpoint, require):
        key = "base_model.model.model.vision_tower.vision_tower.vit.cls_token"
        self.retrain(checkpoint, lambda state: {key: torch.ones(1, 1, 192)})
        report = require("vision_weights_in_non_lora")
        assert report.ignored == ("model.vision_tower.vision_tower.vit.cls_token",)

    def test_the_lora_as_safetensors(self, checkpoint, published, require):
        (checkpoint / "adapter_model.bin").unlink()
        for file in (published / "extra" / "adapter_safetensors").iterdir():
            shutil.copyfile(file, checkpoint / file.name)
        require("adapter_safetensors")


def test_a_checkpoint_with_the_layer_scale_tower(published, tmp_path, timm_fixture_tower):
    """The tower's features, through a whole conversion around a projector of its width."""
    tower = published / "extra" / "layerscale_tower"
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = json.loads((published / "llava-rad-tiny" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_hidden_size": 64}))
    projector = {
        f"model.mm_projector.{n}.{kind}": torch.randn(64, 64)
        if kind == "weight"
        else torch.ones(64)
        for n in (0, 2)
        for kind in ("weight", "bias")
    }
    torch.save(projector, folder / "mm_projector.bin")
    found, _ = converted(
        folder,
        published,
        tmp_path / "model",
        vision_tower=tower / "tower_checkpoint.pt",
        vision_config=tower / "tower.json",
    )
    known = load_file(tower / "expected.safetensors")
    torch.testing.assert_close(
        found.encode_images(known["pixel_values"]), known["vision_features"], atol=2e-4, rtol=1e-4
    )
    convert(tmp_path / "model", tmp_path / "llava", to="llava")
    from transformers import LlavaForConditionalGeneration

    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    with torch.no_grad():
        tokens = torch.stack(llava.get_image_features(known["pixel_values"]).pooler_output)
        wanted = found.image_tokens(known["vision_features"])
    torch.testing.assert_close(tokens, wanted, atol=2e-3, rtol=1e-3)

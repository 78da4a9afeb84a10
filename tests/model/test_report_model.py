import json
import subprocess
import sys

import pytest
import torch
from helpers.tiny_models import FAMILIES, build, picture, reference_of, tiny_encoder, tiny_llm

from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.model import (
    IGNORE,
    AdapterConfig,
    LoraSettings,
    ReportModel,
    ReportProcessor,
    ReportRequest,
    RequestImage,
    load,
)

ROLES = ("current_frontal", "current_lateral", "prior_frontal")
LORA = LoraSettings(r=4, alpha=8, dropout=0.0)


def request(*seeds, roles=ROLES, **context):
    images = tuple(RequestImage(role, picture(s)) for role, s in zip(roles, seeds, strict=False))
    return ReportRequest(images, **context)


def batch_of(model, requests, reports, side="right"):
    samples = [model.processor.encode(q, r) for q, r in zip(requests, reports, strict=True)]
    batch = model.processor.pad(samples, side)
    return batch | {"pixel_values": model.processor.pixel_values(requests)}


def train(model, steps=3):
    """A few real steps, so that adapter and LoRA are neither random nor zero."""
    model.train()
    parameters = list(model.trainable_parameters().values())
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    batch = batch_of(
        model,
        [request(1), request(2, 3, indication="cough")],
        ["No acute disease.", "Large right effusion. Heart size is normal."],
    )
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def logits(model, *requests):
    requests = requests or (request(1),)
    batch = batch_of(model, requests, [None] * len(requests))
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


@pytest.fixture(scope="module")
def trained(tokenizer):
    llm = tiny_llm("llama", len(tokenizer))
    model = build(tokenizer, llm=llm, lora=LORA)
    before = model.encoder.fingerprint()
    losses = train(model, 5)
    return model, losses, before


@pytest.fixture
def saved(trained, tokenizer, tmp_path):
    """A saved model beside its base LLM."""
    base = tmp_path / "llm"
    tiny_llm("llama", len(tokenizer)).save_pretrained(base)
    model = trained[0]
    folder = model.save_pretrained(tmp_path / "model")
    return model, folder, str(base)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_only_logits_equal_those_of_the_bare_llm(tokenizer, family):
    llm = tiny_llm(family, len(tokenizer))
    model = build(tokenizer, llm=llm)
    ids = torch.tensor([tokenizer("The lungs are clear.")["input_ids"]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        wanted = llm(input_ids=ids, attention_mask=mask).logits
        found = model(ids, mask, patches=torch.zeros(0, 16, 24)).logits
    assert torch.allclose(found, wanted, atol=1e-6)


def test_image_tokens_stand_where_the_prompt_names_the_image(tokenizer):
    model = build(tokenizer)
    two = request(1, 2)
    batch = batch_of(model, [two, request(3)], [None, None])
    patches = model.encode_images(batch["pixel_values"])
    embeds = model.embed(batch["input_ids"], patches)
    table = model.llm.get_input_embeddings()
    images = model.adapter(patches, model.grid)
    slots = batch["input_ids"] == -200
    assert torch.equal(embeds[slots], images.flatten(0, 1))
    assert torch.equal(embeds[~slots], table(batch["input_ids"][~slots]))
    assert slots.sum(1).tolist() == [32, 16]


def test_labels_only_logits_give_the_full_loss(tokenizer):
    model = build(tokenizer, "phi2")
    batch = batch_of(
        model,
        [request(1), request(2, indication="cough")],
        ["Clear.", "Large right effusion. Heart size is normal."],
    )
    with torch.no_grad():
        out = model(**batch)
        everything = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    wanted = torch.nn.functional.cross_entropy(
        everything[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    )
    assert torch.allclose(out.loss, wanted, atol=1e-6)
    assert out.logits.shape[1] < everything.shape[1] / 2


def test_right_padding_does_not_change_the_logits_of_real_tokens(tokenizer):
    model = build(tokenizer)
    requests = [request(1), request(2, indication="cough and fever " * 5)]
    together = batch_of(model, requests, [None, None])
    together.pop("labels")
    both = model(**together).logits
    for row, single in enumerate(requests):
        n = int(together["attention_mask"][row].sum())
        assert torch.allclose(both[row, :n], logits(model, single)[0], atol=1e-4)


def test_a_batch_without_targets_is_an_error(tokenizer):
    model = build(tokenizer)
    batch = batch_of(model, [request(1)], [None])
    with pytest.raises(ModelError, match="no token of this batch is a target"):
        model(**batch)


def test_a_mismatch_names_the_image_and_the_counts(tokenizer):
    model = build(tokenizer)
    batch = batch_of(model, [request(1), request(2, 3)], [None, None])
    batch.pop("labels")
    with pytest.raises(ModelError, match="hold 3 images of 16 tokens, 2 were given"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:2]})
    ids = batch["input_ids"].clone()
    last = (ids[1] == -200).nonzero()[-1]
    ids[1, last] = 5
    with pytest.raises(ModelError, match=r"image 3 \(row 2 of the batch\) has 15 image tokens"):
        model(**{**batch, "input_ids": ids})


def test_training_moves_adapter_and_lora_and_nothing_else(trained):
    model, losses, before = trained
    assert losses[-1] < losses[0]
    assert model.encoder.fingerprint() == before
    names = list(model.trainable_parameters())
    assert all(n.startswith("adapter.") or ".lora_" in n for n in names)
    assert not any("lora_" in n for n, _ in model.encoder.named_parameters())
    adapter = sum(p.numel() for p in model.adapter.parameters())
    # r * (in + out) for each linear layer of a Llama block, by hand; two blocks
    lora = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 128) + (128 + 64))
    assert sum(p.numel() for p in model.trainable_parameters().values()) == adapter + lora


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
        ("phi2", "q_proj k_proj v_proj dense fc1 fc2"),
        ("phi3", "qkv_proj o_proj gate_up_proj down_proj"),
        ("qwen2", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
    ],
)
def test_lora_reaches_every_linear_layer_of_each_family_but_the_head(tokenizer, family, names):
    model = build(tokenizer, family, lora=LORA)
    reached = {
        n.split(".lora_A")[0].split(".")[-1]
        for n, _ in model.llm.named_parameters()
        if ".lora_A" in n
    }
    assert reached == set(names.split())


def test_save_and_load_give_equal_tensors_and_logits(saved):
    model, folder, base = saved
    again = ReportModel.from_pretrained(folder, base_llm=base)
    for (name, a), (_, b) in zip(
        model.adapter.state_dict().items(), again.adapter.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    requests = (request(1), request(2, 3, indication="cough"))
    assert torch.allclose(logits(again, *requests), logits(model, *requests), atol=1e-5)
    assert (logits(again, request(1)) - logits(again, request(9))).abs().max() > 1e-4


def test_the_same_in_a_new_process(saved, tmp_path):
    model, folder, base = saved
    ids = model.processor.encode(request(1)).input_ids
    pixels = model.processor.pixel_values([request(1)])
    torch.save({"ids": torch.tensor([ids]), "pixels": pixels}, tmp_path / "in.pt")
    code = f"""
import torch
from llava_rad.model import ReportModel
model = ReportModel.from_pretrained({str(folder)!r}, base_llm={base!r})
given = torch.load({str(tmp_path / "in.pt")!r})
with torch.no_grad():
    out = model(given["ids"], torch.ones_like(given["ids"]), pixel_values=given["pixels"])
torch.save(out.logits, {str(tmp_path / "out.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.allclose(torch.load(tmp_path / "out.pt"), logits(model), atol=1e-5)


def test_goes_on_training_after_loading(saved):
    _, folder, base = saved
    again = ReportModel.from_pretrained(folder, base_llm=base, trainable=True)
    assert len(again.trainable_parameters()) == 4 + 2 * 2 * 7
    losses = train(again, 8)
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    "file",
    [
        "adapter.safetensors",
        "lora/adapter_model.safetensors",
        "lora/adapter_config.json",
        "processor.json",
        "config.json",
        "encoder/model.safetensors",
    ],
)
def test_a_missing_file_is_named(saved, file):
    _, folder, base = saved
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=file.split("/")[-1].split(".")[0]):
        ReportModel.from_pretrained(folder, base_llm=base)


@pytest.mark.parametrize("file", ["adapter.safetensors", "lora/adapter_model.safetensors"])
def test_a_missing_or_additional_tensor_is_named(saved, file):
    from safetensors.torch import load_file, save_file

    _, folder, base = saved
    tensors = load_file(folder / file)
    name, value = next(iter(tensors.items()))
    save_file({k: v for k, v in tensors.items() if k != name}, folder / file)
    with pytest.raises(WeightsError, match=f"1 missing .{name}"):
        ReportModel.from_pretrained(folder, base_llm=base)
    save_file({**tensors, "stranger": value.clone()}, folder / file)
    with pytest.raises(WeightsError, match=r"1 unexpected .stranger"):
        ReportModel.from_pretrained(folder, base_llm=base)


@pytest.mark.parametrize(
    "file", ["adapter.safetensors", "lora/adapter_model.safetensors", "encoder/model.safetensors"]
)
def test_a_cut_weights_file_is_an_error(saved, file):
    _, folder, base = saved
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"safetensors|encoder: the weights cannot be read"):
        ReportModel.from_pretrained(folder, base_llm=base)


def test_another_base_llm_is_refused(saved, tokenizer, tmp_path):
    _, folder, _ = saved
    for family, size, say in (
        ("llama", len(tokenizer) + 8, "vocab_size"),
        ("qwen2", len(tokenizer), "architecture"),
    ):
        other = tmp_path / family
        tiny_llm(family, size).save_pretrained(other)
        with pytest.raises(ModelError, match=say):
            ReportModel.from_pretrained(folder, base_llm=str(other))


def test_another_encoder_is_refused(saved):
    _, folder, base = saved
    tiny_encoder(seed=5).save_pretrained(folder / "encoder")
    with pytest.raises(WeightsError, match="encoder"):
        ReportModel.from_pretrained(folder, base_llm=base)


@pytest.mark.parametrize(
    ("key", "value"), [("image_mean", [0.4] * 3), ("rendering", "voi"), ("geometry", "pad_square")]
)
def test_other_preprocessing_than_the_encoders_is_refused(saved, key, value):
    _, folder, base = saved
    file = folder / "processor.json"
    values = json.loads(file.read_text())
    values["preprocessing"][key] = value
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=key.removeprefix("image_")):
        ReportModel.from_pretrained(folder, base_llm=base)


def test_nothing_is_guessed_from_the_folders_name(saved, tmp_path):
    model, folder, base = saved
    renamed = tmp_path / "something else"
    folder.rename(renamed)
    again = ReportModel.from_pretrained(renamed, base_llm=base)
    assert torch.allclose(logits(again), logits(model), atol=1e-5)


def test_the_card_says_what_the_model_is(saved):
    model, folder, _ = saved
    card = (folder / "README.md").read_text()
    assert "not for clinical use" in card
    assert model.config.encoder.fingerprint[:16] in card


@pytest.mark.parametrize("family", ["llama", "tied-llama", "phi2", "phi3"])
def test_merging_the_lora_keeps_the_logits_also_after_saving(tokenizer, tmp_path, family):
    model = build(tokenizer, family, lora=LORA)
    train(model)
    wanted = logits(model)
    model.merge()
    assert torch.allclose(logits(model), wanted, atol=1e-5)
    folder = model.save_pretrained(tmp_path / "merged")
    again = ReportModel.from_pretrained(folder)
    assert torch.allclose(logits(again), wanted, atol=1e-5)


def test_tied_embeddings_that_were_trained_apart_are_saved_apart(tokenizer, tmp_path):
    llm = tiny_llm("tied-llama", len(tokenizer))
    llm.resize_token_embeddings(len(tokenizer) + 1)
    head = torch.nn.Linear(64, len(tokenizer) + 1, bias=False)
    model = build(tokenizer, llm=llm, lora=LORA)
    model.merge()
    model.llm.lm_head = head
    wanted = logits(model)
    again = ReportModel.from_pretrained(model.save_pretrained(tmp_path / "apart"))
    assert again.llm.config.tie_word_embeddings is False
    assert torch.allclose(logits(again), wanted, atol=1e-5)


def test_an_ungathered_tensor_cannot_be_saved(tokenizer, tmp_path):
    model = build(tokenizer)
    folder = model.save_pretrained(tmp_path / "model")
    good = (folder / "adapter.safetensors").read_bytes()
    model.adapter.layers[0].bias.data = torch.empty(0)
    with pytest.raises(WeightsError, match="not gathered"):
        model.save_pretrained(folder)
    # the good copy stays, and nothing half-written is left beside it
    assert (folder / "adapter.safetensors").read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_saves_small_in_half_precision(trained, tokenizer, tmp_path):
    model = trained[0]
    base = tmp_path / "llm"
    tiny_llm("llama", len(tokenizer)).save_pretrained(base)
    folder = model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    whole = model.save_pretrained(tmp_path / "whole")
    size = {p: (p / "encoder/model.safetensors").stat().st_size for p in (folder, whole)}
    assert size[folder] < 0.6 * size[whole]
    again = ReportModel.from_pretrained(folder, base_llm=str(base))
    assert again.encoder.dtype == torch.float32
    assert torch.allclose(logits(again), logits(model), atol=0.05)


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_quantises_the_llm_only(saved, quantize):
    model, folder, base = saved
    again = ReportModel.from_pretrained(folder, base_llm=base, quantize=quantize)
    kinds = {type(m).__name__ for m in again.llm.modules()}
    assert ("Linear4bit" if quantize == "4bit" else "Linear8bitLt") in kinds
    for part in (again.encoder, again.adapter):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    found, wanted = logits(again), logits(model)
    # close, since it is the same model; not equal, since its weights are coarser
    assert 0 < (found - wanted).abs().mean() < 0.5 * wanted.abs().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_half_precision(saved, dtype):
    model, folder, base = saved
    again = ReportModel.from_pretrained(folder, base_llm=base, dtype=dtype)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert (logits(again).float() - logits(model)).abs().mean() < 0.1


def test_building_is_reproducible_and_leaves_the_random_state_alone(tokenizer):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    first = build(tokenizer, llm=(llm := tiny_llm("llama", len(tokenizer))))
    torch.manual_seed(3)
    second = ReportModel.build(tiny_encoder(), llm, reference_of(llm), tokenizer)
    for a, b in zip(first.adapter.parameters(), second.adapter.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(3)
    ReportModel.build(first.encoder, llm, reference_of(llm), tokenizer)
    assert torch.equal(torch.rand(1), wanted)


def test_processor_of_another_adapter_is_refused(tokenizer):
    model = build(tokenizer)
    other = ReportProcessor(
        tokenizer, model.processor.template, model.processor.preprocessing, tokens_per_image=4
    )
    with pytest.raises(ModelError, match="expects 4 tokens an image"):
        ReportModel(model.config, model.encoder, model.adapter, model.llm, other)


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("pool", [1, 2])
def test_every_adapter_shape_round_trips(tokenizer, tmp_path, layers, pool):
    base = tmp_path / "llm"
    llm = tiny_llm("qwen2", len(tokenizer))
    llm.save_pretrained(base)
    model = build(tokenizer, llm=llm, adapter=AdapterConfig(layers=layers, pool=pool))
    folder = model.save_pretrained(tmp_path / "model")
    again = ReportModel.from_pretrained(folder, base_llm=str(base))
    assert torch.allclose(logits(again), logits(model), atol=1e-5)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "no-one/nothing"])
def test_an_unknown_model_is_an_error_with_a_remedy(name):
    with pytest.raises(WeightsError, match=r"nowhere|no-one/nothing"):
        load(name)

"""Layers and steps on a GPU: all kernels compute what transformers and peft do."""

import copy
import importlib.util

import pytest
import torch
from accelerate import Accelerator
from helpers.tiny_models import build, byte_level_tokenizer, tiny_encoder, tiny_llm
from torch.utils.data import DataLoader
from transformers import Dinov2Config, Dinov2Model

from llava_rad.dinov2.backbone import prepare, tokens
from llava_rad.kernels import choice
from llava_rad.kernels.vit_layer import PatchMasks
from llava_rad.model import IGNORE, LoraSettings, ReportRequest, RequestImage
from llava_rad.model.lora import attach_lora
from llava_rad.model.processor import columns_with_targets, image_places
from llava_rad.report_training.batches import MicroBatch
from llava_rad.report_training.imitation import imitate
from llava_rad.report_training.sharding import shard

pytestmark = pytest.mark.gpu
needs_liger = pytest.mark.skipif(not choice.has_liger(), reason="needs liger-kernel")
BF16 = 2e-2  # rounding to 8 bits, through a few layers


def assert_near(found, expected, tolerance=BF16):
    found, expected = found.detach().float(), expected.detach().float()
    difference = (found - expected).norm() / expected.norm().clamp_min(1e-6)
    assert float(difference) < tolerance


def run_llm(llm, embeds):
    embeds = embeds.clone().requires_grad_()
    logits = llm(inputs_embeds=embeds, use_cache=False).logits
    logits.float().square().mean().backward()
    return logits.detach(), embeds.grad


@needs_liger
@pytest.mark.parametrize("family", ["llama", "phi3", "qwen2"])
def test_liger_computes_what_transformers_does(gpu, family):
    plain = tiny_llm(family, 100).to(gpu, torch.bfloat16)
    fused = copy.deepcopy(plain)
    choice.apply_to_llm(fused, "liger")
    embeds = torch.randn(2, 40, 64, device=gpu, dtype=torch.bfloat16)
    for found, expected in zip(run_llm(fused, embeds), run_llm(plain, embeds), strict=True):
        assert_near(found, expected)


@pytest.mark.compiles
def test_the_compiled_decoding_step_writes_the_same(gpu):
    from llava_rad.reports.generate import GenerationSettings, generate_reports

    tokenizer = byte_level_tokenizer()
    model = build(tokenizer).to(gpu).eval()
    requests = [ReportRequest((RequestImage("current_frontal"),), indication="cough")] * 2
    patches = torch.randn(2, 16, 24, device=gpu)
    plain, static = (
        generate_reports(
            model,
            requests,
            GenerationSettings(max_new_tokens=12, static_cache=static),
            patches=patches,
        )
        for static in (False, True)
    )
    assert [r.findings for r in static] == [r.findings for r in plain]
    assert hasattr(model.llm, "_compiled_call")


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.compiles)])
@pytest.mark.parametrize("kernels", ["plain", pytest.param("liger", marks=needs_liger)])
def test_the_backbone_computes_what_transformers_does(gpu, kernels, compiled):
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=56,
        layerscale_value=1.0,
    )
    theirs = Dinov2Model(config).to(gpu, torch.bfloat16)
    own = prepare(copy.deepcopy(theirs), 0.0, kernels, compiled)
    images = torch.randn(4, 1, 56, 56, device=gpu, dtype=torch.bfloat16)
    chosen = torch.rand(4, 16) < 0.4
    masks = PatchMasks.of(chosen).to(gpu)
    found = tokens(own, images, masks.chosen, masks)
    expected = theirs(images.expand(-1, 3, -1, -1), bool_masked_pos=masks.chosen).last_hidden_state
    given = torch.cat([expected[:, 0], expected[:, 1:][masks.chosen]])
    assert_near(torch.cat(found), given)
    weights = torch.randn_like(given)
    (torch.cat(found) * weights).sum().backward()
    (given * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in own.named_parameters():
        # A key's bias moves all scores of a query alike: its gradient is rounding.
        if gradients[name] is not None and not name.endswith("k_proj.bias"):
            assert_near(parameter.grad, gradients[name], 0.1)


def test_stochastic_depth_leaves_out_its_share_of_images(gpu):
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=1, layerscale_value=1.0
    )
    backbone = prepare(Dinov2Model(config), 0.4, "plain").to(gpu).train()
    layer = backbone.encoder.layer[0]
    torch.nn.init.zeros_(layer.layer_scale2.lambda1)
    hidden = torch.randn(10, 5, 64, device=gpu)
    changed = (layer(hidden) != hidden).flatten(1).any(1)
    assert int(changed.sum()) == 6


class SameMask(torch.nn.Dropout):
    """Dropout whose mask depends on its number and not on the dtype of what it drops."""

    def __init__(self, p, number):
        super().__init__(p)
        self.number = number

    def forward(self, x):
        generator = torch.Generator(x.device).manual_seed(self.number)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.p
        return x * kept / (1 - self.p)


def use_same_masks(llm):
    for number, layer in enumerate(m for m in llm.modules() if hasattr(m, "lora_dropout")):
        dropout = layer.lora_dropout["default"]
        if isinstance(dropout, torch.nn.Dropout):
            layer.lora_dropout["default"] = SameMask(dropout.p, number)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_lora_product_computes_what_peft_does(gpu, dropout):
    llms = [tiny_llm("llama", 100).to(gpu, torch.bfloat16) for _ in range(2)]
    embeds = torch.randn(2, 40, 64, device=gpu, dtype=torch.bfloat16)
    found = []
    for llm, layers in zip(llms, ({}, choice.lora_layers("cpu")), strict=True):
        wrapped = attach_lora(llm, LoraSettings(r=4, alpha=8, dropout=dropout), layers).train()
        use_same_masks(wrapped)
        torch.manual_seed(1)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        with torch.autocast("cuda", torch.bfloat16):
            logits = wrapped(inputs_embeds=embeds, use_cache=False).logits
        logits.float().square().mean().backward()
        gradients = [p.grad for n, p in wrapped.named_parameters() if "lora_" in n]
        found.append([logits.detach(), *gradients])
    for own, theirs in zip(found[1], found[0], strict=True):
        assert_near(own, theirs, 0.05)


def micro_batch(model):
    request = ReportRequest((RequestImage("current_frontal", None),))
    texts = ("Large effusion.", "No edema. The lungs are clear.")
    samples = [model.processor.encode(request, text) for text in texts]
    padded = model.processor.pad(samples, "right")
    return MicroBatch(
        **padded,
        target_columns=columns_with_targets(padded["labels"]),
        image_places=image_places(padded["input_ids"]),
        target_tokens=int((padded["labels"] != IGNORE).sum()),
        tokens=int(padded["attention_mask"].sum()),
        patches=torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0)),
    )


def report_model(gpu, layers=None):
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer)).to(gpu, torch.bfloat16)
    return build(
        tokenizer,
        llm=llm,
        encoder=tiny_encoder().to(gpu),
        lora=LoraSettings(r=4, alpha=8, dropout=0.0),
        lora_layers=layers,
    ).train()


def take_steps(model, gpu, count=3):
    accelerator = Accelerator(mixed_precision="bf16")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = accelerator.prepare(torch.optim.AdamW(trained, lr=1e-2))
    batch = micro_batch(model).pin_memory()
    losses = []
    for number in range(count):
        torch.cuda.synchronize()
        # The first one prepares what is prepared once.
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        outcome = imitate(
            model,
            optimiser,
            accelerator,
            [batch],
            device=gpu,
            targets=batch.target_tokens,
            clip=1.0,
        )
        torch.cuda.set_sync_debug_mode("default")
        losses.append(float(outcome.loss))
    return losses


def test_steps_learn_what_they_do_with_pefts_layers_and_the_host_never_waits(gpu):
    own = take_steps(report_model(gpu, choice.lora_layers("cpu")), gpu)
    theirs = take_steps(report_model(gpu, {}), gpu)
    assert own[-1] < own[0]
    assert own == pytest.approx(theirs, rel=2e-2)


@pytest.mark.compiles
def test_a_compiled_layer_learns_the_same(gpu):
    plain = take_steps(report_model(gpu, {}), gpu)
    model = report_model(gpu, {})
    choice.compile_layers(list(model.llm.get_base_model().model.layers)[:1])
    assert take_steps(model, gpu) == pytest.approx(plain, rel=2e-2)


def test_the_loader_pins_batches(gpu):
    batch = micro_batch(report_model(gpu))
    [pinned] = DataLoader([batch], batch_size=None, pin_memory=True)
    assert all(tensor.is_pinned() for tensor in vars(pinned).values() if torch.is_tensor(tensor))


def test_fsdp2_alone_computes_what_the_whole_model_does(gpu):
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", rank=0, world_size=1, store=store)
    try:
        model = report_model(gpu, {})
        batch = micro_batch(model)
        with torch.autocast("cuda", torch.bfloat16):
            whole = model(**batch.model_inputs(gpu)).loss
        whole.backward()
        name, expected = next(
            (n, p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None
        )
        model.zero_grad()
        shard(model, 1, bf16=True)
        with torch.autocast("cuda", torch.bfloat16):
            split = model(**batch.model_inputs(gpu)).loss
        split.backward()
        assert float(split) == pytest.approx(float(whole), rel=1e-2)
        assert_near(dict(model.named_parameters())[name].grad.full_tensor(), expected, 0.05)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_model_of_4_bits_writes(gpu, tmp_path):
    from llava_rad.model import load_llm
    from llava_rad.model.llm import quantization_of
    from llava_rad.reports.generate import GenerationSettings, generate_reports

    tokenizer = byte_level_tokenizer()
    tiny_llm("llama", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    llm, _ = load_llm(str(tmp_path), dtype=torch.bfloat16, device=gpu, quantize="4bit")
    assert quantization_of(llm) == "4bit"
    model = build(tokenizer, llm=llm, encoder=tiny_encoder()).to(gpu).eval()
    patches = torch.randn(1, 16, 24, device=gpu)
    request = ReportRequest((RequestImage("current_frontal", None),))
    [report] = generate_reports(
        model, [request], GenerationSettings(max_new_tokens=4), patches=patches
    )
    assert 0 < report.tokens <= 4

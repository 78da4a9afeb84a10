"""Report training in ``benchmarks/gpu.py``: this project's step and transformers' own."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from gpu_measure import gpu_kind, pinned, time_steps
from gpu_shapes import Shapes, make_encoder, make_llm, make_tokenizer, shapes

from llava_rad.config import load_config
from llava_rad.kernels import choice
from llava_rad.model import IGNORE, IMAGE_TOKEN, ReportModel
from llava_rad.model.llm import LLMReference
from llava_rad.model.processor import columns_with_targets, image_places
from llava_rad.report_training.batches import MicroBatch
from llava_rad.report_training.building import train_mode
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.report_training.imitation import imitate
from llava_rad.report_training.plan import Workload, plan
from llava_rad.report_training.sharding import decoder_layers, distribute

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "report" / "vicuna_7b_lora.yaml"


def rows(part: str, *, tiny: bool, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What measures each row, by its name."""
    on_gpu = device == "cuda"
    small, large = (1, 2) if tiny else (2, 16)
    fast = "liger" if on_gpu else "cpu"
    ways: dict[str, dict[str, Any]] = {}
    if part == "report":
        ways = {
            "plain": {},
            fast: {"kernels": fast},
            "plain, LoRA product": {"lora_layers": choice.lora_layers("cpu")},
            f"{fast}, pooled 2 x 2": {"kernels": fast, "pool": 2, "batch": 4 * small},
            f"{fast}, checkpointing": {"kernels": fast, "again": True, "batch": large},
            "plain, compiled": {"compile": on_gpu},
            f"{fast}, compiled": {"kernels": fast, "compile": on_gpu},
            "plain, compiled, checkpointing": {"compile": on_gpu, "again": True, "batch": large},
        }
        measure: Callable[..., dict[str, Any]] = measure_project
    else:
        ways = {"transformers": {}, "transformers, checkpointing": {"again": True, "batch": large}}
        measure = measure_peer
    return {
        name: functools.partial(measure, shapes(tiny), device, **{"batch": small, **way})
        for name, way in ways.items()
    }


def measure_project(
    sizes: Shapes,
    device: str,
    *,
    batch: int,
    kernels: choice.Chosen = "plain",
    lora_layers: Any = None,
    compile: bool = False,
    pool: int = 1,
    again: bool = False,
) -> dict[str, Any]:
    """Steps of the training program."""
    config = settings(sizes, batch, pool, again)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16")
    torch.manual_seed(0)
    llm = make_llm(sizes.llm, device)
    llm.set_attn_implementation(choice.attention(kernels) or "sdpa")
    choice.apply_to_llm(llm, kernels)
    layers = choice.lora_layers(kernels) if lora_layers is None else lora_layers
    width = sizes.llm.hidden_size
    model = ReportModel.build(
        make_encoder(sizes.encoder, device),
        llm,
        LLMReference("random", None, sizes.llm.vocab_size, width, type(llm).__name__),
        make_tokenizer(sizes.llm.vocab_size),
        adapter=config.adapter,
        lora=config.lora,
        lora_layers=layers,
    )
    if again:
        model.llm.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    if compile:
        choice.compile_layers(decoder_layers(model, "compile", ""))
    prepared, optimiser = distribute(model, config.finetune, accelerator, "none", bf16=True)
    train_mode(prepared, "finetune")
    cycle = make_batches(sizes, model.processor.tokens_per_image, batch, device)

    def step(number: int) -> None:
        micro_batch = cycle[number % len(cycle)]
        imitate(
            prepared,
            optimiser,
            accelerator,
            [micro_batch],
            device=accelerator.device,
            targets=micro_batch.target_tokens,
            clip=config.finetune.clip,
        )

    found = time_steps(
        step,
        device=device,
        warmup=len(cycle),
        steps=len(cycle) * (1 if again else 2),
        batch=batch,
        flops=useful_flops(model.llm, sizes, cycle),
        unit="studies/s",
    )
    return found | planned(config, sizes, cycle, device)


def measure_peer(sizes: Shapes, device: str, *, batch: int, again: bool = False) -> dict[str, Any]:
    """Steps of transformers' Llava with peft's LoRA: all logits, and the same optimiser."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = settings(sizes, batch, 1, again)
    lora: Any = config.lora
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16")
    image_token = sizes.llm.vocab_size - 1
    torch.manual_seed(0)
    with torch.device(device):
        llava: Any = LlavaForConditionalGeneration._from_config(
            LlavaConfig(
                vision_config=sizes.encoder,
                text_config=sizes.llm,
                image_token_index=image_token,
                vision_feature_layer=-1,
                vision_feature_select_strategy="default",
            ),
            dtype=torch.bfloat16,
        )
    projector = llava.model.multi_modal_projector.float()
    if again:
        llava.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    targets = r".*language_model.*(q|k|v|o|gate|up|down)_proj"
    wrapped = get_peft_model(
        llava,
        LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
        ),
    )
    projector.requires_grad_(True)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimiser: Any
    model, optimiser = accelerator.prepare(wrapped, torch.optim.AdamW(trained, lr=1e-4))
    model.train()
    cycle = make_batches(sizes, sizes.image_tokens, batch, device)
    for micro_batch in cycle:
        ids = micro_batch.input_ids
        ids.masked_fill_(ids == IMAGE_TOKEN, image_token)

    def step(number: int) -> None:
        given = cycle[number % len(cycle)]
        tensors = {
            name: getattr(given, name).to(accelerator.device, non_blocking=True)
            for name in ("input_ids", "attention_mask", "labels", "pixel_values")
        }
        accelerator.backward(model(**tensors, use_cache=False).loss)
        accelerator.clip_grad_norm_(trained, config.finetune.clip)
        optimiser.step()
        optimiser.zero_grad()

    return time_steps(
        step,
        device=device,
        warmup=len(cycle),
        steps=len(cycle) * (1 if again else 2),
        batch=batch,
        flops=useful_flops(llava.model.language_model, sizes, cycle),
        unit="studies/s",
    )


def settings(sizes: Shapes, batch: int, pool: int, again: bool) -> ReportTrainingConfig:
    """The published recipe with images that are encoded in each step."""
    return load_config(
        ReportTrainingConfig,
        RECIPE,
        [
            "stage=finetune",
            "data.cache_features=false",
            f"adapter.pool={pool}",
            f"gradient_checkpointing={str(again).lower()}",
            f"finetune={{batch_size: {batch}, micro_batch: {batch}, lr: 1e-4}}",
            *([] if sizes.llm.hidden_size == 4096 else ["lora.r=4", "lora.alpha=8"]),
        ],
    )


def make_batches(sizes: Shapes, image_tokens: int, batch: int, device: str) -> list[MicroBatch]:
    """A batch of each length, whose studies are of nearly one length, as in training."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for text in sizes.texts:
        length = image_tokens + text
        ids = torch.randint(3, sizes.llm.vocab_size - 1, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        ids[:, 1 : 1 + image_tokens] = IMAGE_TOKEN
        for row in range(batch):  # shorter by a token each, up to 7
            mask[row, length - row % 8 :] = 0
        first = image_tokens + sizes.prompt
        labels = ids.masked_fill(mask == 0, IGNORE)
        labels[:, :first] = IGNORE
        tensors = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "target_columns": columns_with_targets(labels),
            "image_places": image_places(ids),
            "pixel_values": torch.randn(batch, 3, sizes.side, sizes.side, generator=generator),
        }
        fields: dict[str, Any] = {name: pinned(value, device) for name, value in tensors.items()}
        batches.append(
            MicroBatch(
                **fields,
                target_tokens=int((labels != IGNORE).sum()),
                tokens=int(mask.sum()),
            )
        )
    return batches


def useful_flops(llm: Any, sizes: Shapes, cycle: list[MicroBatch]) -> float:
    """Operations of a mean step that are needed, as the program's text counts them.

    The encoder's are its forward pass; the adapter's are left out (below 1 %).

    Args:
        llm: with the LoRA.
        sizes: of the models.
        cycle: batches of a step each.
    """
    table = sizes.llm.vocab_size * sizes.llm.hidden_size
    trained = frozen = 0
    for name, parameter in llm.named_parameters():
        if "embed_tokens" in name or "lm_head" in name:
            continue
        if "lora_" in name:
            trained += parameter.numel()
        else:
            frozen += parameter.numel()
    width, layers = sizes.llm.hidden_size, sizes.llm.num_hidden_layers
    total = 0.0
    for batch in cycle:
        lengths = batch.attention_mask.sum(1)
        total += (4.0 * frozen + 6.0 * trained) * batch.tokens
        total += 7.0 * width * layers * float((lengths.double() ** 2).sum())
        total += 4.0 * table * batch.target_tokens
        total += len(lengths) * vit_flops(sizes.encoder, sizes.side)
    return total / len(cycle)


def vit_flops(config: Any, size: int) -> float:
    """Operations of an encoder's forward pass over one image: 2 a weight and token, attention 4."""
    tokens = (size // config.patch_size) ** 2 + 1
    width, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 + 2 * config.mlp_ratio) * width**2
    return 2.0 * weights * tokens + 4.0 * layers * tokens**2 * width


def planned(
    config: ReportTrainingConfig, sizes: Shapes, cycle: list[MicroBatch], device: str
) -> dict[str, Any]:
    """What ``llava-rad plan`` says of the stage."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        if sizes.llm.hidden_size != 4096:  # tiny ones are known by their folders alone
            sizes.llm.save_pretrained(Path(folder) / "llm")
            sizes.encoder.save_pretrained(Path(folder) / "encoder")
            make_encoder(sizes.encoder, "cpu").preprocessing.write(Path(folder) / "encoder")
            names = [f"llm={folder}/llm", f"encoder={folder}/encoder"]
        given = load_config(
            ReportTrainingConfig,
            RECIPE,
            [
                *names,
                "stage=finetune",
                "data.cache_features=false",
                f"adapter.pool={config.adapter.pool}",
                f"gradient_checkpointing={str(config.gradient_checkpointing).lower()}",
                f"finetune={{batch_size: {config.finetune.micro_batch}, "
                f"micro_batch: {config.finetune.micro_batch}}}",
                *([f"lora.r={config.lora.r}"] if config.lora else []),
            ],
        )
        text = sum(sizes.texts) / len(sizes.texts)
        found = plan(
            given,
            studies=1000,
            gpu=gpu_kind(device),
            workload=Workload(prompt_tokens=sizes.prompt, report_tokens=round(text) - sizes.prompt),
        ).stages[-1]
    return {"planned_rate": 1 / found.seconds, "planned_gb": found.peak_gb}

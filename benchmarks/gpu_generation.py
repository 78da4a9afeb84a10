"""Generation in ``benchmarks/gpu.py``: as reports are written, and by transformers' generate."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from gpu_measure import time_steps
from gpu_shapes import make_encoder, make_llm, make_tokenizer, shapes

from llava_rad.model import AdapterConfig, ReportModel, ReportRequest, RequestImage
from llava_rad.model.llm import LLMReference
from llava_rad.reports.generate import GenerationSettings, generate_reports


def rows(part: str, *, tiny: bool, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What measures each row, by its name."""
    sizes = (1, 2) if tiny else (8, 1, 32)
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for batch in sizes:
        found[f"reports, batch {batch}"] = functools.partial(
            measure, tiny, device, batch, write_reports
        )
        found[f"transformers, batch {batch}"] = functools.partial(
            measure, tiny, device, batch, generate
        )
    if device == "cuda":
        for batch in (1, 8):
            found[f"reports, static and compiled, batch {batch}"] = functools.partial(
                measure, tiny, device, batch, write_compiled
            )
            found[f"transformers, static and compiled, batch {batch}"] = functools.partial(
                measure, tiny, device, batch, generate_compiled
            )
    return found


@functools.cache
def model_of(tiny: bool, device: str) -> ReportModel:
    """One model for all rows."""
    sizes = shapes(tiny)
    torch.manual_seed(0)
    llm = make_llm(sizes.llm, device)
    shape = sizes.llm
    return ReportModel.build(
        make_encoder(sizes.encoder, device).to(torch.bfloat16),
        llm,
        LLMReference("random", None, shape.vocab_size, shape.hidden_size, type(llm).__name__),
        make_tokenizer(shape.vocab_size),
        adapter=AdapterConfig(),
    ).to(torch.bfloat16)


def measure(
    tiny: bool, device: str, batch: int, write: Callable[[ReportModel, int, int], int]
) -> dict[str, Any]:
    """Tokens a second of one batch, its encoding and prompt included."""
    model, sizes = model_of(tiny, device), shapes(tiny)

    def step(number: int) -> None:
        # The first call warms up: a few tokens are enough but where code is made.
        short = number == 0 and write not in (generate_compiled, write_compiled)
        count = min(8, sizes.new_tokens) if short else sizes.new_tokens
        written = write(model, batch, count)
        if written != batch * count:
            raise RuntimeError(f"{written} tokens were written, {batch * count} were asked for")

    return time_steps(
        step,
        device=device,
        warmup=1,
        steps=1,
        batch=batch * sizes.new_tokens,
        flops=None,
        unit="tokens/s",
    ) | {"batch": batch}


def pixels(model: ReportModel, batch: int) -> torch.Tensor:
    """Images of noise."""
    side = model.encoder.image_size
    return torch.randn(batch, 3, side, side, device=model.device, dtype=torch.bfloat16)


def write_reports(model: ReportModel, batch: int, count: int, *, static_cache: bool = False) -> int:
    """As ``llava-rad report`` does after an image is read."""
    requests = [ReportRequest((RequestImage("current_frontal"),))] * batch
    patches = model.encode_images(pixels(model, batch))
    settings = GenerationSettings(max_new_tokens=count, static_cache=static_cache)
    return sum(r.tokens for r in generate_reports(model, requests, settings, patches=patches))


def write_compiled(model: ReportModel, batch: int, count: int) -> int:
    """The same with ``--static-cache``."""
    return write_reports(model, batch, count, static_cache=True)


@torch.inference_mode()
def generate(model: ReportModel, batch: int, count: int, **options: Any) -> int:
    """Transformers' generate, given the embeddings of the same prompt."""
    requests = [ReportRequest((RequestImage("current_frontal"),))] * batch
    processor = model.processor
    given = processor.pad([processor.encode(request) for request in requests], side="left")
    given = {name: tensor.to(model.device) for name, tensor in given.items()}
    embeds = model.embed(given["input_ids"], model.encode_images(pixels(model, batch)))
    ids = model.llm.generate(
        inputs_embeds=embeds,
        attention_mask=given["attention_mask"],
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return ids.numel()


def generate_compiled(model: ReportModel, batch: int, count: int) -> int:
    """The same with transformers' static cache, whose decoding step it compiles."""
    return generate(model, batch, count, cache_implementation="static")

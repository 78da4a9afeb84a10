"""The model of a stage, put together from the settings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, TrainingError
from llava_rad.kernels import choice
from llava_rad.model import (
    PromptTemplate,
    ReportModel,
    ReportModelConfig,
    load_llm,
    load_tokenizer,
)
from llava_rad.model.llm import fitting_attention
from llava_rad.model.lora import WEIGHTS_FILE as LORA_FILE
from llava_rad.model.lora import has_lora, put_lora, read_lora_config
from llava_rad.model.report_model import ADAPTER_FILE, load_adapter
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.report_training.samples import restricted_template
from llava_rad.report_training.sharding import decoder_layers, shard
from llava_rad.runs.receiving import receive
from llava_rad.runs.together import in_all
from llava_rad.tensor_files import read_each_tensor, read_tensors, require_fingerprint


def build_stage_model(
    config: ReportTrainingConfig,
    stage: str,
    encoder: ImageEncoder,
    *,
    start: Path | None = None,
    device: torch.device | None = None,
    place: torch.device | None = None,
) -> ReportModel:
    """The model that a stage trains, with exactly its trained parameters requiring gradients.

    A frozen LLM is kept in the precision that is computed in; what is trained, in float32.

    Args:
        config: of the run.
        stage: ``align``, ``finetune`` or ``reinforce``.
        encoder: frozen.
        start: folder of a report model whose adapter, and LoRA if it has one, to start from.
        device: that the model is to compute on; None is the CPU.
        place: where adapter and LLM are put until then, if elsewhere; on the meta device they have
            no values, and those of ``start`` are not read.

    Raises:
        ConfigError: ``start`` is of another encoder, LLM or adapter shape.
        WeightsError: the LLM or the adapter cannot be loaded.
    """
    # The prompt first: what is wrong with it shows before weights are read.
    template, tokenizer = stage_prompt(config, stage)
    whole_llm = stage == "finetune" and config.lora is None
    bf16 = config.precision == "bf16" and not whole_llm
    kernels, attention = _kernels(config, device or torch.device("cpu"))
    place = place or device
    empty = place is not None and place.type == "meta"
    lora = None if stage == "align" else config.lora
    llm, reference = load_llm(
        config.llm,
        revision=config.llm_revision,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        device=None if empty else place,
        quantize=config.quantize,
        attention=attention,
        train=True,
        lora=lora,
        empty=empty,
    )
    choice.apply_to_llm(llm, kernels)
    if config.gradient_checkpointing and not llm.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(llm).__name__} cannot compute its activations twice",
            where="gradient_checkpointing",
            remedy="Set gradient_checkpointing=false",
        )
    model = ReportModel.build(
        encoder,
        llm,
        reference,
        tokenizer,
        name=config.name or config.output.name,
        adapter=config.adapter,
        template=template,
        lora=lora,
        lora_layers=choice.lora_layers(kernels),
        encoder_revision=config.encoder_revision,
        seed=config.seed,
    )
    if whole_llm:
        model.llm.requires_grad_(True)
        model.config = replace(model.config, llm_weights="full")
    if config.gradient_checkpointing:
        model.llm.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    if config.compile:
        choice.compile_layers(decoder_layers(model, "compile", "Set compile=false"))
    if start is not None and not empty:
        start_from(model, start)
    model.adapter.to(place)
    return model


def build_in_all(
    config: ReportTrainingConfig,
    stage: str,
    encoder: ImageEncoder,
    accelerator: Accelerator,
    *,
    start: Path | None = None,
) -> ReportModel:
    """The model of :func:`build_stage_model` in every process of a run; with FSDP2 its part of it.

    One process reads, the others receive, so a machine's memory does not hold a copy a process. A
    quantised LLM is small, and read by each.
    """
    device, processes = accelerator.device, accelerator.num_processes
    sharding = config.sharding_over(processes)
    receives = processes > 1 and not config.quantize
    place = device
    if receives and not accelerator.is_main_process:
        place = torch.device("meta")
    elif sharding == "fsdp2":
        place = torch.device("cpu")
    model = in_all(
        accelerator,
        lambda: build_stage_model(config, stage, encoder, start=start, device=device, place=place),
    )
    if sharding == "fsdp2":
        shard(model, device, processes, bf16=config.precision == "bf16")
    elif receives:
        receive(model, device, leave=[model.encoder])
    return model


def whole_model(
    config: ReportTrainingConfig,
    stage: str,
    encoder: ImageEncoder,
    trained: Mapping[str, torch.Tensor],
    split: ReportModel,
) -> ReportModel:
    """A model to be saved, of what a split one has trained; frozen weights are not read again.

    Args:
        config: of the run.
        stage: of the model.
        encoder: of the run.
        trained: whole parameters by name; they are taken over, not copied.
        split: the model itself.
    """
    config = replace(config, kernels="plain", compile=False)
    whole = build_stage_model(config, stage, encoder, place=torch.device("meta"))
    names = whole.state_dict().keys()
    buffers = {name: buffer for name, buffer in split.named_buffers() if name in names}
    whole.load_state_dict({**trained, **buffers}, strict=False, assign=True)
    whole.llm.tie_weights()
    return whole


def _kernels(
    config: ReportTrainingConfig, device: torch.device
) -> tuple[choice.Chosen, str | None]:
    """The kernels of a run and its attention.

    Left to ``auto``, a CPU's own layers stand back where an attention is chosen, or where theirs is
    not what the LLM computes.
    """
    kernels = choice.choose(config.kernels, device)
    if kernels != "cpu":
        return kernels, config.attention
    own = choice.attention(kernels)
    assert own is not None
    if config.attention is None and fitting_attention(config.llm, own, config.llm_revision):
        return kernels, own
    if config.kernels == "auto":
        return "plain", config.attention
    raise ConfigError(
        "the layers for a CPU do not compute this LLM's attention"
        if config.attention is None
        else f"the layers for a CPU have an attention of their own, not {config.attention}",
        where="kernels",
        remedy="Set kernels=auto or kernels=plain",
        kind="kernels",
    )


def stage_prompt(config: ReportTrainingConfig, stage: str) -> tuple[PromptTemplate, Any]:
    """The rendered prompt of a stage, and the tokenizer of its LLM.

    Raises:
        WeightsError: the tokenizer cannot be loaded.
        ModelError: it changes text, or its chat template cannot be used.
    """
    tokenizer = load_tokenizer(config.llm, config.llm_revision)
    template = restricted_template(
        tokenizer, config.data.images, config.data.context, config.prompt_changes(stage)
    )
    return template, tokenizer


def start_from(model: ReportModel, folder: Path) -> None:
    """Take over the adapter of a trained report model, and its LoRA if it has one.

    Raises:
        ConfigError: it does not fit the encoder, the LLM, the adapter's shape or the LoRA.
    """
    found = ReportModelConfig.load(folder)
    own = model.config
    theirs_part, ours_part = "", ""
    if found.llm_weights != "base":
        theirs_part, ours_part = _trained_part(folder, found), _lora_of(model)
    for what, theirs, ours in (
        ("encoder", found.encoder.fingerprint, own.encoder.fingerprint),
        ("adapter", found.adapter, own.adapter),
        ("LLM", found.llm.id, own.llm.id),
        ("trained part of the LLM", theirs_part, ours_part),
    ):
        if theirs != ours:
            raise ConfigError(
                f"its {what} is not that of this run ({theirs} instead of {ours})",
                where=folder,
                remedy=f"Start from a model with the same {what}, or align a new adapter",
                kind="other_start",
            )
    load_adapter(model.adapter, folder, expected=found.fingerprints.get("adapter"))
    if found.llm_weights == "lora":
        file = folder / "lora" / LORA_FILE
        tensors = read_tensors(file)
        require_fingerprint(tensors, found.fingerprints.get("lora"), where=file)
        put_lora(model.llm, tensors, where=file)


def _trained_part(folder: Path, config: ReportModelConfig) -> str:
    """What of a saved model's LLM is trained, in words to compare."""
    if config.llm_weights != "lora":
        return "all its weights"
    return _lora_in_words(read_lora_config(folder / "lora"))


def _lora_of(model: ReportModel) -> str:
    if not has_lora(model.llm):
        return "no LoRA"
    return _lora_in_words(model.llm.peft_config["default"].to_dict())


def _lora_in_words(values: Mapping[str, Any]) -> str:
    layers = ", ".join(sorted(values["target_modules"]))
    return f"LoRA of rank {values['r']} and alpha {values.get('lora_alpha')} on {layers}"


def train_mode(model: nn.Module, stage: str) -> None:
    """Training mode; what is frozen has no dropout."""
    model.train()
    if stage == "align":
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()


def check_saved(folder: Path, trained: Mapping[str, torch.Tensor]) -> None:
    """Compare what was saved with what was trained, a tensor at a time.

    Args:
        folder: of the saved report model.
        trained: parameters by name, whole.

    Raises:
        TrainingError: a trained parameter is missing there or has other values.
    """
    wanted = {name.replace(".default.", "."): name for name in trained}
    files = [("adapter.", folder / ADAPTER_FILE)]
    for part in ("lora", "llm"):
        files += [("llm.", file) for file in sorted((folder / part).glob("*.safetensors"))]
    for prefix, file in files:
        for saved_name, saved in read_each_tensor(file):
            name = wanted.get(f"{prefix}{saved_name}")
            if name is not None and torch.equal(saved, trained[name].detach().cpu()):
                del wanted[f"{prefix}{saved_name}"]
    if wanted:
        raise TrainingError(
            f"{min(wanted.values())} was saved otherwise than it was trained",
            where=folder,
            remedy="Check the disk and start the same command again: it saves once more what "
            "the checkpoint at the end of the stage holds",
            kind="saved_differs",
        )

"""What the launcher was told and what the run is set to, made one.

``accelerate launch`` hands its configuration over in environment variables. Sharding may be asked
for there (``configs/accelerate/fsdp2.yaml``, ``zero2.yaml``, ``zero3.yaml``) or in the run
(``sharding=``); where both do, they have to agree. All else that decides the weights is the run's.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from transformers.integrations import unset_hf_deepspeed_config

from llava_rad.errors import ConfigError
from llava_rad.extras import command, is_installed
from llava_rad.report_training.config import ReportTrainingConfig, Sharding
from llava_rad.runs.launch import process_group

_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"

# Options of accelerate's FSDP by environment variable: the values that say what is done here, and
# what stands for an option that is not set.
_FSDP_VALUES = {
    "FSDP_VERSION": ({"2"}, "1"),
    "FSDP_RESHARD_AFTER_FORWARD": ({"true", "full_shard"}, "true"),
    "FSDP_OFFLOAD_PARAMS": ({"false"}, "false"),
    "FSDP_ACTIVATION_CHECKPOINTING": ({"false"}, "false"),  # gradient_checkpointing of the run
}
# Keys of DeepSpeed's configuration that are settings of the run.
_OWN_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "torch_autocast",
)


def agree(config: ReportTrainingConfig) -> ReportTrainingConfig:
    """The run's settings with the sharding that the launcher asks for.

    Args:
        config: of the run; its ``sharding`` may be null.

    Returns:
        The settings, ``sharding`` no longer null.

    Raises:
        ConfigError: launcher and run contradict each other, or the launcher asks for what is not
            done here.
    """
    asked = _launcher_sharding()
    if asked and config.sharding not in (None, asked):
        raise _contradiction(
            f"the launcher says {asked}, the run {config.sharding}",
            "sharding",
            f"Set sharding={asked} or null, or launch with configs/accelerate/"
            f"{'ddp' if config.sharding == 'none' else config.sharding}.yaml",
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", config.precision):
        raise _contradiction(
            f"the launcher says {precision}, the run {config.precision}",
            "precision",
            "Leave mixed_precision out of the launcher's configuration: it is the run's precision",
        )
    return replace(config, sharding=config.sharding or asked or "none")


def _launcher_sharding() -> Sharding | None:
    """What the launcher was told about sharding, if anything."""
    if _is_on("ACCELERATE_USE_MEGATRON_LM"):
        raise _contradiction(
            "Megatron-LM is not used here",
            "launcher",
            "Launch with a file of configs/accelerate",
        )
    if _is_on(_FSDP):
        for name, (here, default) in _FSDP_VALUES.items():
            if (value := os.environ.get(name, default)).lower() not in here:
                raise _contradiction(
                    f"the launcher says {name}={value}, which is not done here",
                    "sharding",
                    "Launch with configs/accelerate/fsdp2.yaml",
                )
        return "fsdp2"
    if _is_on(_DEEPSPEED):
        if _is_on("ACCELERATE_DEEPSPEED_ZERO3_INIT"):
            raise _contradiction(
                "the launcher says zero3_init_flag, and the LLM is loaded whole and then split",
                "sharding",
                "Set zero3_init_flag to false in the launcher's configuration",
            )
        plugin = DeepSpeedPlugin()
        _check_deepspeed(plugin.deepspeed_config)
        return _sharding_of(plugin)
    return None


def _sharding_of(plugin: DeepSpeedPlugin) -> Sharding:
    name: Any = f"zero{plugin.zero_stage}"
    if name not in get_args(Sharding):
        raise _contradiction(
            f"ZeRO stage {plugin.zero_stage} is not used here",
            "sharding",
            "Launch with configs/accelerate/zero2.yaml or zero3.yaml",
        )
    return name


def _check_deepspeed(values: Mapping[str, Any]) -> None:
    for key in _OWN_KEYS:
        value = values.get(key, "auto")
        if isinstance(value, dict):
            value = value.get("enabled", True)
        if value != "auto" and value is not False:
            raise _contradiction(
                f"the launcher sets {key}, which is a setting of the run",
                "sharding",
                'Leave it out of the launcher\'s configuration, or set it to "auto" in '
                "DeepSpeed's JSON",
            )
    for part in ("offload_optimizer", "offload_param"):
        device = (values["zero_optimization"].get(part) or {}).get("device", "none")
        if device != "none":
            raise _contradiction(
                f"the launcher sets {part} to {device}, which is not done here",
                "sharding",
                "Leave it out; zero3, gradient_checkpointing=true and a smaller micro_batch save "
                "memory",
            )


def start_accelerator(config: ReportTrainingConfig) -> Accelerator:
    """Join the processes that were started.

    Args:
        config: from :func:`agree`.

    Raises:
        ConfigError: DeepSpeed is asked for and not installed.
    """
    sharding = config.sharding_over(int(os.environ.get("WORLD_SIZE", "1")))
    zero = sharding in ("zero2", "zero3")
    if zero and not is_installed("deepspeed"):
        raise ConfigError(
            f"{sharding} needs DeepSpeed, which is not installed",
            where="sharding",
            remedy=f"Run: {command('deepspeed')}; or use sharding=fsdp2",
            kind="missing_package",
        )
    # Accelerate reads these too, and would shard by itself.
    for name in (_FSDP, _DEEPSPEED):
        os.environ.pop(name, None)
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(
        # Said outright: without it, processes on CPUs do not find each other. With it, Accelerate
        # leaves DeepSpeed out.
        cpu=cpu and not zero,
        kwargs_handlers=[process_group("gloo" if cpu and zero else None)],
        deepspeed_plugin=_plugin(sharding) if zero else None,
        # DeepSpeed's engine has an autocast of its own.
        mixed_precision="bf16" if config.precision == "bf16" and not zero else "no",
        log_with=config.trackers,
        project_dir=str(config.output),
    )
    # Else transformers would split every LLM while it loads; here it is loaded whole, then split.
    unset_hf_deepspeed_config()
    return accelerator


def _plugin(sharding: Sharding) -> DeepSpeedPlugin:
    return DeepSpeedPlugin(zero_stage=3 if sharding == "zero3" else 2, zero3_init_flag=False)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def _contradiction(what: str, where: str, remedy: str) -> ConfigError:
    return ConfigError(what, where=where, remedy=remedy, kind="launcher_contradicts")

"""LoRA on the LLM, and only there.

Training one, and everything on a quantised LLM, is peft's work; it is imported where it is used.
Adding a saved one to plain weights needs none of it: see ``lora_merge``.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llava_rad.config import Count, Range, check_ranges
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.extras import require
from llava_rad.readers import read_json
from llava_rad.tensor_files import cast, read_tensors, require_fingerprint, write_tensors
from llava_rad.wording import counted

if TYPE_CHECKING:
    from peft import PeftModel

#: Layers with LoRA in place of peft's, by the layer that gets the LoRA.
LoraLayers = Mapping[type[nn.Module], type[nn.Module]]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# What of a saved LoRA's configuration is followed; further keys are allowed where they are unset.
_READ: dict[str, Any] = {
    "r": int,
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": (list, str),
    "target_parameters": list,
    "exclude_modules": (list, str),
    "layers_to_transform": (list, int),
    "layers_pattern": (list, str),
    "rank_pattern": dict,
    "alpha_pattern": dict,
    "fan_in_fan_out": bool,
    "bias": str,
    "use_rslora": bool,
    "use_dora": bool,
    "lora_bias": bool,
    "modules_to_save": list,
}
# Keys without bearing on what a trained LoRA computes.
_LEFT = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "init_lora_weights",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
}
# Within a block of experts: their routers, and layers under the names that peft takes for experts.
_OF_EXPERTS = {
    "gate",
    "router",
    "shared_expert_gate",
    "gate_proj",
    "up_proj",
    "down_proj",
    "w1",
    "w2",
    "w3",
}


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of the LLM's linear layers, its head excepted.

    The defaults are those of the published LLaVA-Rad recipe.

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update, in training.
        targets: names of the layers that get an update, such as ``[q_proj, v_proj]``; ``null`` is
            every linear layer of the blocks, of a mixture of experts those outside the experts.
    """

    r: Count = 64
    alpha: Count = 128
    dropout: Annotated[float, Range(0, below=1)] = 0.05
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets:
                raise ConfigError("no layer is named", where="targets", remedy="Name some, or null")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def has_lora(llm: Any) -> bool:
    """Whether an LLM is wrapped with a LoRA, which only peft can have done."""
    return "peft" in sys.modules and isinstance(llm, sys.modules["peft"].PeftModel)


def without_lora(llm: Any) -> Any:
    """The LLM itself; within a LoRA's wrapper its layers stay those with the LoRA."""
    return llm.get_base_model() if has_lora(llm) else llm


def attach_lora(llm: Any, settings: LoraSettings, layers: LoraLayers | None = None) -> "PeftModel":
    """Wrap the LLM; only the LoRA parameters are trainable afterwards.

    Args:
        llm: the base.
        settings: of the LoRA.
        layers: with LoRA, to use in place of peft's, by the layer that gets it.

    Raises:
        ModelError: it has a LoRA already, or peft has no layer for its parts.
        ConfigError: it has no layer of a chosen name.
        MissingExtraError: peft is not installed.
    """
    if has_lora(llm):
        raise ModelError("the LLM already has LoRA layers", remedy="Merge them first, or go on")
    values = {
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": lora_targets(llm, settings.targets),
        "bias": "none",
    }
    return wrap_with_lora(llm, values, layers=layers)


def lora_targets(llm: Any, chosen: tuple[str, ...] | None = None) -> list[str]:
    """Names of the layers that get an update.

    By default they are found by type in the LLM itself, which suits every family (Llama's
    ``q_proj``, Phi-2's ``fc1``, Phi-3's ``qkv_proj``) and cannot reach the encoder. Experts and
    their routers are left alone: an update of each expert would be larger than all others
    together, and one of a router sends tokens elsewhere.

    Raises:
        ConfigError: a chosen name is of no linear layer.
    """
    head = llm.get_output_embeddings()
    modules = dict(llm.named_modules())
    layers = {
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    others = {_last(name) for name in modules.keys() - layers}
    # The layers of a list are called 0, 1 and so on, as others may be.
    known = sorted({_last(n, 2) if _last(n) in others else _last(n) for n in layers})
    if chosen is None:
        mixture = "experts" in others
        return [name for name in known if not (mixture and name in _OF_EXPERTS)]
    parameters = {name for name, _ in llm.named_parameters()}
    for target in chosen:
        if not any(f".{name}".endswith(f".{target}") for name in layers | parameters):
            raise ConfigError(
                f"{type(llm).__name__} has no layer '{target}'",
                where="lora.targets",
                remedy=f"Its linear layers: {', '.join(known)}; null takes the usual ones",
            )
    return sorted(chosen)


def _last(name: str, parts: int = 1) -> str:
    """The last parts of a module's name."""
    return ".".join(name.split(".")[-parts:])


def wrap_with_lora(
    llm: Any,
    values: Mapping[str, Any],
    *,
    trainable: bool = True,
    layers: LoraLayers | None = None,
) -> "PeftModel":
    """Wrap an LLM with an untrained LoRA.

    Args:
        llm: the base.
        values: of its configuration, as :func:`read_lora_config` gives them.
        trainable: whether its parameters are.
        layers: as for :func:`attach_lora`.

    Raises:
        ModelError: peft has no layer for its parts.
        MissingExtraError: peft is not installed.
    """
    require("train", "a LoRA beside the LLM's weights")
    from peft import LoraConfig

    try:
        config = LoraConfig(**values, task_type="CAUSAL_LM", inference_mode=not trainable)
    except (ValueError, TypeError) as error:
        raise _damaged(error, CONFIG_FILE) from error
    return _wrap(llm, config, layers)


def _wrap(llm: Any, config: Any, layers: LoraLayers | None = None) -> "PeftModel":
    from peft import get_peft_model

    # bitsandbytes' layers are linear layers too, and peft has its own for them.
    if layers and getattr(llm, "quantization_method", None) is None:
        config._register_custom_module(dict(layers))
    try:
        with warnings.catch_warnings():
            # peft reads a property that transformers has renamed
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            return get_peft_model(llm, config)
    except (ValueError, TypeError, AttributeError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{type(llm).__name__} cannot take the LoRA ({reason[0].rstrip('.')})",
            remedy="Choose other lora.targets, or give the LLM that the LoRA was trained on",
            kind="unsupported_lora",
        ) from error


def save_lora(llm: "PeftModel", folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's layout.

    Args:
        llm: with the LoRA.
        folder: to write.
        tensors: its weights, from :func:`lora_tensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = llm.peft_config["default"].to_dict()
    # The base is named in the model's own config; a path of this machine would be noise.
    config["base_model_name_or_path"] = None
    config["inference_mode"] = True
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=str) + "\n")
    write_tensors(tensors, folder / WEIGHTS_FILE)


def lora_tensors(llm: "PeftModel", dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The LoRA's weights under the names they are saved with."""
    from peft.utils import get_peft_model_state_dict

    # "auto" would look for the base LLM's configuration on the hub.
    return cast(get_peft_model_state_dict(llm, save_embedding_layers=False), dtype)


def load_lora(
    llm: Any, folder: Path, *, trainable: bool = False, expected: str | None = None
) -> "PeftModel":
    """Attach the LoRA saved in ``folder``.

    Args:
        llm: the base LLM.
        folder: in peft's layout.
        trainable: keep it trainable.
        expected: fingerprint of its weights, if it is known.

    Raises:
        WeightsError: a file or a tensor is missing or damaged, or one is there that the LLM has no
            place for.
        ModelError: the LLM cannot take it.
        MissingExtraError: peft is not installed.
    """
    values = read_lora_config(folder)
    tensors = read_tensors(folder / WEIGHTS_FILE)
    wrapped = wrap_with_lora(llm, values, trainable=trainable)
    put_lora(wrapped, tensors, where=folder / WEIGHTS_FILE)
    require_fingerprint(tensors, expected, where=folder / WEIGHTS_FILE)
    return wrapped


def read_lora_config(folder: Path) -> dict[str, Any]:
    """The settings of a saved LoRA that are followed, from its ``adapter_config.json``.

    Raises:
        WeightsError: the file is missing, damaged, or of another method than LoRA.
    """
    file = folder / CONFIG_FILE
    values = read_json(
        file,
        error=WeightsError,
        expect=dict,
        failure="the LoRA's configuration cannot be read",
        remedy="Copy the whole model folder again",
        kind="damaged_config",
    )
    try:
        if values.get("peft_type", "LORA") != "LORA":
            raise ValueError(f"peft_type is {values['peft_type']!r}, not LORA")
        strange = sorted(k for k, v in values.items() if k not in {*_READ, *_LEFT} and v)
        # Others of these, such as pissa, have changed the base weights too.
        if values.get("init_lora_weights", True) not in (True, False, None, "gaussian"):
            strange.append("init_lora_weights")
        if strange:
            raise ValueError(f"unknown settings {', '.join(strange)}")
        known = {k: v for k, v in values.items() if k in _READ and v is not None}
        for key, value in known.items():
            kinds = _READ[key]
            if not isinstance(value, kinds) or (type(value) is bool) != (kinds is bool):
                raise ValueError(f"{key} is {value!r}")
        if known.get("r", 0) < 1 or not known.get("target_modules"):
            raise ValueError("it names no rank or no layers")
        return known
    except (ValueError, TypeError) as error:
        raise _damaged(error, file) from error


def _damaged(error: Exception, where: object) -> WeightsError:
    return WeightsError(
        f"the LoRA's configuration cannot be used ({error})",
        where=where,
        remedy="Copy the whole model folder again",
        kind="damaged_config",
    )


def put_lora(llm: "PeftModel", tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Set the weights of an attached LoRA.

    Raises:
        WeightsError: a tensor is missing, too many, or of another shape.
    """
    from peft.utils import set_peft_model_state_dict

    require_same_tensors(lora_tensors(llm), tensors, where=where)
    set_peft_model_state_dict(llm, dict(tensors))


def require_same_tensors(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, where: Path
) -> None:
    """See that a LoRA's file has the tensors that its configuration means.

    Args:
        own: tensors of the right names and shapes.
        tensors: what the file has.
        where: the file.

    Raises:
        WeightsError: a tensor is missing, too many, or of another shape.
    """
    report_difference(set(own), set(tensors), where=where)
    wrong = sorted(name for name in own if own[name].shape != tensors[name].shape)
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"{counted(len(wrong), 'tensor')} of another shape than {CONFIG_FILE} says: {name} is "
            f"{list(tensors[name].shape)}, not {list(own[name].shape)}",
            where=where,
            remedy="Use the weights and the configuration of one and the same LoRA",
            kind="mismatched_keys",
        )


def report_difference(expected: set[str], found: set[str], *, where: Path) -> None:
    """Raise WeightsError naming missing and unexpected tensors, if there are any."""
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if not missing and not unexpected:
        return
    parts = []
    for word, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
    raise WeightsError(
        f"tensors do not fit: {'; '.join(parts)}",
        where=where,
        remedy="Use the weights and the configuration of one and the same model",
        kind="missing_keys" if missing else "unexpected_keys",
    )


def merge_lora(llm: Any) -> Any:
    """The plain LLM with the LoRA added to its weights; a plain LLM is returned as it is.

    A quantised LLM is given plain weights first, in the precision it computes in: rounded to few
    bits again, the update would be lost in part.
    """
    if not has_lora(llm):
        return llm
    if getattr(llm.get_base_model(), "quantization_method", None) is not None:
        llm = _with_plain_weights(llm)
    merged = llm.merge_and_unload()
    for parameter in merged.parameters():
        require_finite(parameter)
    return merged


def require_finite(weight: Tensor) -> None:
    """Raise ModelError where a merged weight [out, in] is not finite."""
    # A sum is finite only if all are, and costs a fraction; a finite one may overflow.
    if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
        raise ModelError("merging the LoRA gave non-finite weights", kind="not_finite")


def _with_plain_weights(llm: "PeftModel") -> "PeftModel":
    config: Any = llm.peft_config["default"]
    tensors = {name: tensor.detach().clone() for name, tensor in lora_tensors(llm).items()}
    wrapped = _wrap(llm.unload().dequantize(), config)
    put_lora(wrapped, tensors, where=Path(WEIGHTS_FILE))
    return wrapped

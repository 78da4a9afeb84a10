"""Proof that an LLM can do what a report model asks of it, before its weights are waited for.

Embeddings must go in, logits must come out, also of chosen positions alone; generation from
embeddings must give what the forward pass gives, for each row of a batch; and where it is to be
trained, gradients must come back, through a LoRA if there is one. All this is tried on a copy of
the LLM's configuration that is small in layers, width, heads, experts and vocabulary. Some
architectures cannot be made so small; those are tried whole, after loading.
"""

import functools
import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llava_rad.errors import ModelError
from llava_rad.model.causal_lm import CausalLM, first_line
from llava_rad.model.lora import LoraSettings, attach_lora
from llava_rad.quiet import quiet

_VOCABULARY = 64
_WINDOW = 4
# A copy of more parameters than this is not small: its family has other settings of size.
_LARGEST = 30_000_000

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "d_model", "n_embd")
_HEADS = ("num_attention_heads", "n_heads", "n_head")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
# Largest value in the small copy of all that is named so.
_AT_MOST = {
    "vocab_size": _VOCABULARY,
    "vocab_size_per_layer_input": _VOCABULARY,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "ffn_hidden_size": 64,
    "n_inner": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "intermediate_size_mlp": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_kv_shared_layers": 0,
    "sliding_window": _WINDOW,
}


def prove(
    causal: CausalLM,
    *,
    where: object,
    train: bool = False,
    lora: LoraSettings | None = None,
    attention: str | None = None,
) -> bool:
    """Try a small copy of an LLM.

    Args:
        causal: the class and configuration.
        where: named in errors.
        train: whether something is to be trained by gradients through the LLM.
        lora: the LoRA to be trained, if there is one.
        attention: attention implementation, if it is one that runs on a CPU.

    Returns:
        True if it does all; False if the small copy does not, so that the whole LLM must decide
        (:func:`prove_whole`).

    Raises:
        ModelError: it cannot, for a reason that does not depend on its size.
    """
    for method in ("forward", "prepare_inputs_for_generation"):
        if "inputs_embeds" not in inspect.signature(getattr(causal.model_class, method)).parameters:
            raise _cannot(causal.name, "it takes no embeddings (inputs_embeds), only text", where)
    settings = json.dumps(_plain(causal.config), sort_keys=True, default=str)
    base, trained = _tried(_Key(causal, settings, train, lora, attention))
    if base:
        return False
    if trained:
        raise _cannot(causal.name, trained, where)
    return True


def prove_whole(
    llm: Any, *, where: object, train: bool = False, lora: LoraSettings | None = None
) -> None:
    """The same with a loaded LLM.

    Raises:
        ModelError: it cannot.
    """
    reason = _try(llm, tolerance=0.05) or (_try_training(llm, lora) if train else "")
    if reason:
        raise _cannot(type(llm).__name__, reason, where)


def attention_fits(causal: CausalLM, attention: str) -> bool:
    """Whether an attention implementation gives what transformers' written-out one gives.

    Compared on small copies: logits and the gradient of the embeddings, over sequences longer than
    a sliding window.
    """
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            plain = _small(causal, "eager")
            other = _small(causal, attention)
            other.load_state_dict(plain.state_dict())
            ids = torch.arange(4, 4 + 3 * _WINDOW).reshape(1, -1)
            found = []
            for llm in (plain, other):
                embeds = llm.get_input_embeddings()(ids).detach().requires_grad_()
                logits = llm(inputs_embeds=embeds, use_cache=False).logits
                logits.float().logsumexp(-1).sum().backward()
                found += [logits.detach(), embeds.grad]
        return all(_near(found[i], found[i + 2], 1e-3) for i in (0, 1))
    except Exception:  # whatever it is, it does not fit
        return False


class _Key:
    """What a proof depends on; equal for equal architectures."""

    def __init__(
        self,
        causal: CausalLM,
        settings: str,
        train: bool,
        lora: LoraSettings | None,
        attention: str | None,
    ) -> None:
        self.causal, self.train, self.attention = causal, train, attention
        self.targets = None if lora is None else LoraSettings(2, 4, 0.0, lora.targets)
        self._facts = (causal.name, settings, train, self.targets, attention)

    def __hash__(self) -> int:
        return hash(self._facts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._facts == other._facts


@functools.lru_cache(maxsize=64)
def _tried(key: _Key) -> tuple[str, str]:
    """Why the small copy fails, and why training it fails; empty where it does not."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        try:
            llm = _small(key.causal, key.attention)
        except Exception as error:  # configurations check themselves in their own ways
            return first_line(error) or "it cannot be made", ""
        reason = _try(llm, tolerance=1e-3)
        if reason or not key.train:
            return reason, ""
        return "", _try_training(llm, key.targets)


def _plain(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_dict()
    for name in ("quantization_config", "_name_or_path", "auto_map"):
        values.pop(name, None)
    return values


def _small(causal: CausalLM, attention: str | None) -> Any:
    """A small LLM of the same architecture with random weights, in evaluation mode."""
    values = _shrunk(_plain(causal.config), causal.config)
    config = type(causal.config).from_dict(values)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        shape = causal.model_class(type(causal.config).from_dict(values))
    if sum(p.numel() for p in shape.parameters()) > _LARGEST:
        raise ValueError("its configuration cannot be made small")
    llm = causal.model_class._from_config(config, dtype=torch.float32, **options)
    with torch.no_grad():
        for parameter in llm.parameters():  # gates that start at zero would hide what they let in
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return llm.eval()


def _shrunk(values: dict[str, Any], config: Any) -> dict[str, Any]:
    found = {
        name: next((n for n in names if values.get(n)), None) for name, names in _NAMES.items()
    }
    layers = found["layers"] and int(values[found["layers"]])
    kept = _layers_kept(values, layers) if layers else []
    small: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple) and layers and len(value) == layers:
            value = [value[i] for i in kept]
        at_most = _AT_MOST.get(name)
        if at_most is not None:
            value = _at_most(value, at_most)
        if name.endswith("_layers") and isinstance(value, list):  # numbers of layers
            value = [v for v in value if not (type(v) is int and v >= len(kept))]
        small[name] = value
    for name, number in (("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", None)):
        small[name] = number
    if layers:
        small[str(found["layers"])] = len(kept)

    heads, width = found["heads"], found["width"]
    if heads and width and isinstance(values[width], int) and isinstance(values[heads], int):
        key_heads = next((n for n in _KEY_HEADS if isinstance(values.get(n), int)), None)
        alone = key_heads is None or values[key_heads] == values[heads]
        # The width of a head is kept: parts of it are rotated, in ways that it must fit.
        head = getattr(config, "head_dim", None) or values[width] // values[heads]
        new_width = 2 * head
        for name, value in values.items():
            if value == values[width] and type(value) is int and name not in _AT_MOST:
                small[name] = new_width
        small[heads], small[width] = 2, new_width
        if key_heads is not None:
            small[key_heads] = 2 if alone else 1
    return small


_NAMES = {"layers": _LAYERS, "width": _WIDTHS, "heads": _HEADS}


def _layers_kept(values: dict[str, Any], layers: int) -> list[int]:
    """Of each kind of layer the first one; two layers at least."""
    kept = set(range(min(2, layers)))
    for value in values.values():
        if isinstance(value, list | tuple) and len(value) == layers:
            kinds = [v for v in value if isinstance(v, str)]
            firsts = {kinds.index(kind) for kind in set(kinds)} if len(kinds) == layers else set()
            kept = firsts | {1} - firsts if len(firsts) == 1 else firsts or kept
    return sorted(kept)


def _at_most(value: Any, largest: int) -> Any:
    if isinstance(value, list | tuple):
        return [_at_most(v, largest) for v in value]
    return min(value, largest) if type(value) is int else value


@torch.no_grad()
def _try(llm: Any, tolerance: float) -> str:
    """Why an LLM cannot read embeddings and write from them; empty if it can."""
    device = llm.get_input_embeddings().weight.device
    prompts = [torch.arange(5, 14, device=device), torch.arange(20, 25, device=device)]
    ids = prompts[0].unsqueeze(0)
    try:
        embeds = llm.get_input_embeddings()(ids)
        by_ids = llm(input_ids=ids, use_cache=False).logits
        whole = llm(inputs_embeds=embeds, use_cache=False).logits
        if not _near(whole, by_ids, tolerance):
            return "it makes something else of embeddings than of the same text"
        kept = torch.tensor([2, 5], device=device)
        chosen = llm(inputs_embeds=embeds, use_cache=False, logits_to_keep=kept).logits
        if not _near(chosen, whole[:, kept], tolerance):
            return "it does not compute the logits of chosen positions (logits_to_keep)"
        # An image is embeddings that no token has.
        table = llm.get_input_embeddings()
        texts = [table(p) for p in prompts]
        for text in texts:
            text[1] = (text[1] + text[2]) / 2
        tokens, logits = _generated(llm, texts)
        for row, text in enumerate(texts):
            written = torch.cat([text, table(tokens[row, :-1])]).unsqueeze(0)
            known = llm(inputs_embeds=written, use_cache=False).logits
            if not _near(logits[row], known[0, len(text) - 1 :], tolerance):
                return "it writes something else in a batch, or token by token, than at once"
    except Exception as error:  # architectures fail in their own ways
        return first_line(error)
    return ""


def _generated(llm: Any, texts: Sequence[Tensor], count: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens [rows, count] after embeddings of different length, and their logits."""
    length = max(len(text) for text in texts)
    embeds = texts[0].new_zeros(len(texts), length, texts[0].shape[-1])
    mask = torch.zeros(len(texts), length, dtype=torch.long, device=embeds.device)
    for row, text in enumerate(texts):
        embeds[row, length - len(text) :], mask[row, length - len(text) :] = text, 1
    before, llm.generation_config.eos_token_id = llm.generation_config.eos_token_id, None
    try:
        out = llm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        llm.generation_config.eos_token_id = before
    return out.sequences[:, -count:], torch.stack(out.logits, 1)


def _try_training(llm: Any, lora: LoraSettings | None) -> str:
    """Why nothing can be trained through an LLM; empty if it can."""
    trained = llm
    try:
        if lora is not None:
            trained = attach_lora(llm, lora)
        device = llm.get_input_embeddings().weight.device
        ids = torch.arange(5, 14, device=device).unsqueeze(0)
        embeds = llm.get_input_embeddings()(ids).detach().requires_grad_()
        kept = torch.tensor([2, 5], device=device)
        trained.train()
        logits = trained(inputs_embeds=embeds, use_cache=False, logits_to_keep=kept).logits
        logits.float().logsumexp(-1).sum().backward()
        gradients = [embeds.grad]
        if lora is not None:
            ups = [p.grad for name, p in trained.named_parameters() if ".lora_B." in name]
            gradients += ups
            if not any(g is not None and bool(g.abs().sum() > 0) for g in ups):
                return "no gradient reaches its LoRA"
        if embeds.grad is None or not all(
            torch.isfinite(g).all() for g in gradients if g is not None
        ):
            return "no gradient comes back to its embeddings, or none that is finite"
    except ModelError as error:
        return error.what
    except Exception as error:  # architectures and peft fail in their own ways
        return first_line(error)
    finally:
        trained.eval()
        if trained is not llm:
            trained.unload()
        for parameter in llm.parameters():
            parameter.grad = None
    return ""


def _near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    if found.shape != expected.shape:
        return False
    difference = (found.float() - expected.float()).norm()
    return bool(difference <= tolerance * expected.float().norm())


def _cannot(name: str, reason: str, where: object) -> ModelError:
    return ModelError(
        f"{name} cannot be the LLM of a report model: {reason}",
        where=where,
        remedy="Use another LLM, such as one of Llama, Qwen, Gemma, Phi or Mistral",
        kind="unsupported_llm",
    )

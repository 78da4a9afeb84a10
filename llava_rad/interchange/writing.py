"""What every folder for transformers needs: an image token, how to decode, and a place."""

import contextlib
import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AddedToken, GenerationConfig

from llava_rad.errors import WeightsError
from llava_rad.files import write_folder_atomically
from llava_rad.model import ReportProcessor
from llava_rad.model.prompt import IMAGE
from llava_rad.quiet import quiet


def with_image_token(tokenizer: Any) -> tuple[Any, int]:
    """A copy of a tokenizer that knows the image's mark as one token, and the token's number."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    return tokenizer, tokenizer.convert_tokens_to_ids(IMAGE)


def never_written(processor: ReportProcessor) -> int:
    """A token that no report holds and none ends with."""
    tokenizer = processor.tokenizer
    candidates = (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
    ends = (None, processor.end_id, tokenizer.eos_token_id)
    return next((token for token in candidates if token not in ends), 0)


def make_room(llm: Any, image_id: int, *, like: int) -> None:
    """Give the image token a row in the vocabulary, if it has none.

    The row is a copy of a token that is never written, so its logit can tie but not win.

    Args:
        llm: a causal LM.
        image_id: number of the image token.
        like: number of the token that is never written.
    """
    rows = llm.get_input_embeddings().weight.shape[0]
    if image_id < rows:
        return
    with quiet():
        llm.resize_token_embeddings(image_id + 1, mean_resizing=False)
    head = llm.get_output_embeddings()
    with torch.no_grad():
        for module in (llm.get_input_embeddings(), head):
            module.weight[rows:] = module.weight[like]
        if getattr(head, "bias", None) is not None:
            head.bias[rows:] = head.bias[like]


def greedy(tokenizer: Any, ends: Collection[int]) -> GenerationConfig:
    """Deterministic decoding up to one of the tokens that end a report."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=256,
    )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes ``folder`` when the block ends well.

    Args:
        folder: it does not exist or is empty.

    Raises:
        WeightsError: the disk refuses.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_folder_atomically(folder) as temporary:
            yield temporary
            if folder.is_dir():
                folder.rmdir()  # only an empty one
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot save ({error})", where=folder, remedy="Check the disk's space and rights"
        ) from error

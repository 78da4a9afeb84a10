"""Facts of vision towers that the layouts disagree on: which block, which leading tokens."""

from typing import Any

from llava_rad.encoders import ImageEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.dinov3 import Dinov3Encoder
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.encoders.timm_vit import TimmEncoder
from llava_rad.errors import ModelError


def block_layer(index: object, depth: int, *, where: object) -> int:
    """An index into the list of hidden states as :attr:`ImageEncoder.layer` counts.

    Args:
        index: into the embeddings followed by the output of each block, as LLaVA and
            transformers count.
        depth: blocks of the tower.
        where: named in errors.

    Raises:
        ModelError: it is not a single block.
    """
    if not isinstance(index, int) or isinstance(index, bool):
        raise _unsupported(f"features of several layers ({index})", where)
    position = index if index >= 0 else depth + 1 + index
    if not 1 <= position <= depth:
        raise _unsupported(f"layer {index} of {depth} blocks, which is no block's output", where)
    return position - depth - 1


def leading_tokens(encoder: ImageEncoder) -> int:
    """Tokens that the tower puts before its patch tokens: class and registers."""
    if isinstance(encoder, TimmEncoder):
        return int(encoder.trunk.num_prefix_tokens)
    if isinstance(encoder, Dinov2Encoder | Dinov3Encoder):
        return 1 + encoder.num_registers
    return 0 if isinstance(encoder, SiglipEncoder) else 1


def table_image_size(encoder: ImageEncoder) -> int:
    """Side in pixels of the images that the position table was made for."""
    if isinstance(encoder, TimmEncoder):
        return int(encoder.trunk.patch_embed.img_size[0])
    config: Any = encoder.model.config  # type: ignore[union-attr]
    return int(config.image_size)


def require_one_leading_token(encoder: ImageEncoder, *, where: object) -> None:
    """Refuse a tower of which a layout that drops one token would keep or lose some.

    Raises:
        ModelError: the tower has no class token, or register tokens besides.
    """
    if leading_tokens(encoder) != 1:
        raise _unsupported(
            f"a tower with {leading_tokens(encoder)} tokens before the patch tokens, of which "
            "exactly one would be dropped",
            where,
        )


def require_table_size(encoder: ImageEncoder, *, where: object) -> None:
    """Refuse images of another size than the position table's.

    Raises:
        ModelError: the sizes differ.
    """
    if table_image_size(encoder) != encoder.image_size:
        raise _unsupported(
            f"images of {encoder.image_size} pixels with positions for {table_image_size(encoder)}",
            where,
        )


def _unsupported(what: str, where: object) -> ModelError:
    return ModelError(
        f"the layout cannot express {what}",
        where=where,
        remedy="Use a vision transformer with one class token, at its own image size, and the "
        "output of one of its blocks",
        kind="unsupported_tower",
    )

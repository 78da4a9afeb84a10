"""EVA-X: EVA-02 vision transformers on chest X-rays, in the layout of their released files.

The released files (``eva_x_small_patch16_merged520k_mim.pt`` and its siblings) are checkpoints of
masked image modelling in EVA-02's names. They become timm's EVA-02, as in the authors' own
``eva_x.py``; the prediction head and the mask token are left out.

Rotary positions are fixed and lie in the file as a table, from which their scale is told.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.encoders.positions import table_side
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.timm_vit import TimmEncoder, loaded_encoder, make_trunk
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError

#: The authors' test transform at 224 pixels.
EVA_X = Preprocessing(
    image_size=224,
    mean=(0.49185243,) * 3,
    std=(0.28509309,) * 3,
    shorter_side=256,
    crop_rounding="half_even",
)

_ARCHITECTURE = "eva02_base_patch14_224"  # whose every size is overridden
_WRAPPERS = ("model_ema", "model", "module", "state_dict")
_NAMES = {
    "mlp.ffn_ln": "mlp.norm",
    "attn.inner_attn_ln": "attn.norm",
    "mlp.w12": "mlp.fc1",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
}
_OF_THE_TRAINING = ("mask_token", "lm_head.*", "rope.*", "*.rope.*")


def is_eva_x_state(state: Mapping[str, Any]) -> bool:
    """Whether a weight file is in EVA-02's names."""
    return "blocks.0.attn.q_bias" in _unwrapped(state)


def load_state(state: Mapping[str, Any], request: LoadRequest, file: Path) -> TimmEncoder:
    """Make an encoder from a released file.

    Args:
        state: content of the file.
        request: with the folder in which a preprocessing may lie; the authors' own otherwise.
        file: named in errors.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    plain = _unwrapped(state)
    model_args = _sizes(plain, file)
    trunk = make_trunk(_ARCHITECTURE, model_args, where=file)
    separate = not model_args["qkv_fused"]
    renamed = {_renamed(key, separate): tensor for key, tensor in plain.items()}
    report = load_into(trunk, renamed, source=file, ignore=_OF_THE_TRAINING)
    published = None if request.has_preprocessing() else EVA_X
    preprocessing = request.final_preprocessing(published)
    return loaded_encoder(trunk, report, request, preprocessing, _ARCHITECTURE, model_args)


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return dict(state)


def _renamed(key: str, separate: bool) -> str:
    for old, new in _NAMES.items():
        key = key.replace(f".{old}.", f".{new}.")
    if separate:
        key = key.replace("q_bias", "q_proj.bias").replace("v_bias", "v_proj.bias")
    return key


def _sizes(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """What timm has to be told, from the shapes."""
    try:
        patches = state["pos_embed"].shape[1] - 1
        dim, _, _, patch_size = state["patch_embed.proj.weight"].shape
        packed = "blocks.0.mlp.w12.weight" in state
        gate = state["blocks.0.mlp.w12.weight" if packed else "blocks.0.mlp.w1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"not an EVA-02 vision transformer ({error} missing)",
            where=file,
            remedy="Use a file as EVA-X released it",
            kind="keys_do_not_fit",
        ) from error
    side, hidden = table_side(patches), gate // 2 if packed else gate
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    heads = dim // 64
    return {
        "img_size": side * patch_size,
        "patch_size": patch_size,
        "embed_dim": dim,
        "depth": len(blocks),
        "num_heads": heads,
        "qkv_fused": "blocks.0.attn.qkv.weight" in state,
        "mlp_ratio": (hidden + 0.5) / dim,  # timm cuts the product off
        "swiglu_mlp": True,
        "scale_mlp": "blocks.0.mlp.ffn_ln.weight" in state,
        "scale_attn_inner": "blocks.0.attn.inner_attn_ln.weight" in state,
        "use_rot_pos_emb": True,
        "ref_feat_shape": [_rotary_side(state, side, dim // heads, file)] * 2,
        "global_pool": "token",  # keeps the final norm where all tokens pass it
    }


def _rotary_side(state: Mapping[str, Tensor], side: int, head_dim: int, file: Path) -> int:
    """Side of the grid in whose units the rotary positions count: its own, or that of EVA-02."""
    table = state.get("rope.freqs_cos")  # [patches, head_dim]
    if table is None:
        return side
    periods = 10000 ** (torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    for reference in (side, 16):
        steps = torch.arange(side) / side * reference
        angles = (steps[:, None] / periods).repeat_interleave(2, dim=1)
        columns = angles[None].expand(side, -1, -1)
        wanted = torch.cat([columns.transpose(0, 1), columns], dim=-1).flatten(0, 1).cos()
        if table.shape == wanted.shape and torch.allclose(table.float(), wanted, atol=0.01):
            return reference
    raise WeightsError(
        "the rotary positions in the file are not those of EVA-02",
        where=file,
        remedy="Use a file as EVA-X released it",
        kind="position_table",
    )

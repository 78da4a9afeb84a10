"""RadJEPA and other encoders of the I-JEPA code: vision transformers without a class token.

A checkpoint (RadJEPA's is ``jepa_encoder.pth.tar``) holds the encoder's state dict under
``encoder``, in timm's names, beside what else the training kept. RadJEPA's repository brings code
of its own for it, which is not needed. It says nothing on how its images were prepared: that has
to be given.

CLS is the mean of the patch tokens after the final norm.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_rad.encoders.positions import table_side
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.timm_vit import TimmEncoder, loaded_encoder, make_trunk
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError
from llava_rad.weight_files import read_state_dict

CHECKPOINT = "jepa_encoder.pth.tar"

_ARCHITECTURE = "vit_base_patch16_224"  # whose every size is overridden
_ADDED = re.compile(r"^(?:module\.|encoder\.)+")
_HEADS = {1280: 16, 1408: 16}  # elsewhere one for 64 dimensions


def is_jepa_state(state: Mapping[str, Any]) -> bool:
    """Whether a weight file is a checkpoint of the I-JEPA code."""
    return isinstance(state.get("encoder"), Mapping)


def load(request: LoadRequest) -> TimmEncoder:
    """Load RadJEPA's folder as it is published, with its preprocessing given or put beside it.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape, or it is not known how
            to prepare images.
    """
    file = request.folder / CHECKPOINT
    return load_state(read_state_dict(file), request, file)


def load_state(state: Mapping[str, Any], request: LoadRequest, file: Path) -> TimmEncoder:
    """Make an encoder from a checkpoint of the I-JEPA code.

    Args:
        state: content of the file.
        request: with the folder in which the preprocessing lies.
        file: named in errors.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
    """
    plain = {_ADDED.sub("", key): tensor for key, tensor in state["encoder"].items()}
    try:
        patches, dim = plain["pos_embed"].shape[1:]
        patch_size = plain["patch_embed.proj.weight"].shape[-1]
        hidden = plain["blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise WeightsError(
            f"not an encoder of the I-JEPA code ({error} missing)",
            where=file,
            remedy="Use a checkpoint as the I-JEPA code or RadJEPA saves it",
            kind="keys_do_not_fit",
        ) from error
    model_args = {
        "img_size": table_side(patches) * patch_size,
        "patch_size": patch_size,
        "embed_dim": dim,
        "depth": len({key.split(".")[1] for key in plain if key.startswith("blocks.")}),
        "num_heads": _HEADS.get(dim, dim // 64),
        "mlp_ratio": (hidden + 0.5) / dim,  # timm cuts the product off
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,  # the final norm stays before the pooling
    }
    trunk = make_trunk(_ARCHITECTURE, model_args, where=file)
    preprocessing = request.final_preprocessing()
    report = load_into(trunk, plain, source=file)
    return loaded_encoder(trunk, report, request, preprocessing, _ARCHITECTURE, model_args)

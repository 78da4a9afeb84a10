"""Vision transformers of timm, alone or as the trunk of an open_clip model.

Patch tokens are those after the trunk's final norm. CLS is the class token after that norm; a
trunk without one gives timm's own pooling, and the mean of the patch tokens for an inner ``layer``.

A folder is laid out as timm's own: ``config.json`` with ``architecture``, and
``model.safetensors``; ``timm.create_model("local-dir:FOLDER")`` reads it too.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import FILE_NAME, Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.weights import LoadReport, load_into
from llava_rad.errors import WeightsError
from llava_rad.weight_files import read_state_dict

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_CLASSIFIER = ("head.*", "head_dist.*")


class TimmEncoder(ImageEncoder):
    """A timm vision transformer without its classifier.

    Args:
        trunk: made by :func:`make_trunk`.
        preprocessing: makes its input.
        architecture: timm's name of it.
        model_args: with which timm made it, besides its name.
        name: what it was loaded as.
        layer: block to take tokens from, see :class:`ImageEncoder`.
    """

    def __init__(
        self,
        trunk: Any,
        preprocessing: Preprocessing,
        *,
        architecture: str,
        model_args: dict[str, Any] | None = None,
        name: str = "timm",
        layer: int | None = None,
    ):
        super().__init__(name, preprocessing, layer=layer)
        self.architecture = architecture
        self.model_args = dict(model_args or {})
        self.trunk = trunk
        self._freeze(
            dim=trunk.embed_dim,
            patch_size=trunk.patch_embed.patch_size[0],
            depth=len(trunk.blocks),
        )

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        trunk: Any = self.trunk
        prefix = trunk.num_prefix_tokens  # class and register tokens
        if self.layer is None:
            tokens = trunk.forward_features(pixel_values)  # [batch, prefix + tokens, dim]
            pooled = trunk.forward_head(tokens, pre_logits=True)
            # Trunks that pool first keep their final norm behind the pooling.
            tokens = trunk.fc_norm(tokens) if isinstance(trunk.norm, nn.Identity) else tokens
        else:
            [block] = trunk.forward_intermediates(
                pixel_values,
                indices=[self.depth + self.layer],
                return_prefix_tokens=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
            tokens = torch.cat([block[1], block[0]], dim=1) if prefix else block
            pooled = tokens[:, prefix:].mean(1)
        has_class_token = getattr(trunk, "cls_token", None) is not None
        return EncoderOutput(
            cls=tokens[:, 0] if has_class_token else pooled, patches=tokens[:, prefix:]
        )

    def _save_weights(self, folder: Path) -> None:
        size = self.image_size
        config = {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.dim,
            "model_args": self.model_args,
            "pretrained_cfg": {
                "input_size": [3, size, size],
                "crop_pct": size / (self.preprocessing.shorter_side or size),
                "crop_mode": "squash" if self.preprocessing.geometry == "resize" else "center",
                "interpolation": self.preprocessing.interpolation,
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
                "num_classes": 0,
            },
            "feature_layer": self.layer,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {key: tensor.contiguous() for key, tensor in self.trunk.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def make_trunk(architecture: str, model_args: dict[str, Any], *, where: object) -> Any:
    """Make a timm vision transformer that takes images of any size, with random weights.

    Raises:
        WeightsError: timm has no such architecture, or it is not a vision transformer.
    """
    if not timm.is_model(architecture):
        raise WeightsError(
            f"timm {timm.__version__} has no architecture '{architecture}'",
            where=where,
            remedy="Update timm, or register the architecture before loading",
            kind="unsupported_family",
        )
    try:
        trunk = timm.create_model(
            architecture, **{**model_args, "num_classes": 0, "dynamic_img_size": True}
        )
    except TypeError as error:
        raise _not_a_vit(f"{architecture} ({error})", where) from error
    if not all(hasattr(trunk, part) for part in ("blocks", "patch_embed", "num_prefix_tokens")):
        raise _not_a_vit(architecture, where)
    return trunk


def load(request: LoadRequest) -> TimmEncoder:
    """Load a timm folder.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
    """
    folder, config = request.folder, request.config
    architecture, model_args = config["architecture"], dict(config.get("model_args") or {})
    model_args.pop("num_classes", None)
    if config.get("global_pool"):
        model_args.setdefault("global_pool", config["global_pool"])
    file = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "there are no weights in the folder",
            where=folder,
            remedy=f"Put one of {', '.join(_WEIGHT_FILES)} there; a download may be incomplete",
            kind="no_weights",
        )
    trunk = make_trunk(architecture, model_args, where=folder / "config.json")
    report = load_into(trunk, read_state_dict(file), source=file, ignore=_CLASSIFIER)
    published = None
    if not request.has_preprocessing():
        published = _published_preprocessing(config, where=folder / "config.json")
    preprocessing = request.final_preprocessing(published)
    return loaded_encoder(trunk, report, request, preprocessing, architecture, model_args)


def loaded_encoder(
    trunk: Any,
    report: LoadReport,
    request: LoadRequest,
    preprocessing: Preprocessing,
    architecture: str,
    model_args: dict[str, Any],
) -> TimmEncoder:
    """The encoder around a trunk that has its weights.

    Args:
        trunk: made by :func:`make_trunk` with the same architecture and arguments.
        report: of the loading of its weights.
        request: says name, dtype and layer.
        preprocessing: makes its input.
        architecture: timm's name of it.
        model_args: with which timm made it, besides its name.
    """
    encoder = TimmEncoder(
        trunk.to(request.dtype),
        preprocessing,
        architecture=architecture,
        model_args=model_args,
        name=request.name,
        layer=request.final_layer(),
    )
    encoder.load_report = report
    return encoder


def _published_preprocessing(config: dict[str, Any], *, where: object) -> Preprocessing:
    """What timm's evaluation transform does with a model's ``pretrained_cfg``."""
    given = config.get("pretrained_cfg", config)
    needed = ("input_size", "interpolation", "mean", "std")
    missing = [key for key in needed if key not in given]
    mode, crop = given.get("crop_mode", "center"), given.get("crop_pct", 0.875)
    side = given["input_size"][-1] if "input_size" in given else 0
    if missing or mode not in ("center", "squash") or (mode == "squash" and crop != 1):
        problem = f"{', '.join(missing)} missing" if missing else f"crop_mode '{mode}' with {crop}"
        raise WeightsError(
            f"how to prepare images for these weights is unknown ({problem})",
            where=where,
            remedy=f"Put {FILE_NAME} beside it, or pass preprocessing=Preprocessing(...)",
            kind="no_preprocessing",
        )
    return Preprocessing(
        image_size=side,
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
        geometry="resize" if mode == "squash" else "shorter_side_center_crop",
        interpolation=given["interpolation"],
        shorter_side=int(side / crop),
        crop_rounding="half_even",
    )


def _not_a_vit(architecture: str, where: object) -> WeightsError:
    return WeightsError(
        f"timm's {architecture} is not a vision transformer with patch tokens",
        where=where,
        remedy="Use a ViT, such as vit_base_patch16_224",
        kind="unsupported_family",
    )

"""BioViL and BioViL-T: ResNet-50 image models in the layout of the package hi-ml-multimodal.

Patch tokens are the last feature map, which hi-ml-multimodal calls ``patch_embeddings``, and CLS is
its mean, ``img_embedding``. BioViL-T projects the map to 256 channels and adds 256 that tell the
change since a prior image (Bannur et al., CVPR 2023). An encoder here sees one image: as in the
published code, a learned vector then stands for the change at every place, and the transformer that
would compare two images does not run. Its weights are not kept, nor are those of the projection
into the joint space with text, which lies behind the tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.weights import load_into
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.weight_files import read_state_dict

_MAP_DIM = 2048  # channels of ResNet-50's last feature map
_STRIDE = 32  # pixels between its places
_DEPTH = 16  # residual blocks
_STATIC_DIM = 256  # BioViL-T's channels of the image itself, and as many of the change

_NOT_THE_TOKENS = (
    "encoder.encoder.fc.*",  # ImageNet's classifier, which torchvision's ResNet carries along
    "encoder.vit_pooler.*",
    "projector.*",
)


@dataclass(frozen=True)
class _Variant:
    """One of the two published models: its checkpoint's name and the side of its centre crop."""

    checkpoint: str
    image_size: int
    multi_image: bool

    @property
    def preprocessing(self) -> Preprocessing:
        """What hi-ml-multimodal's inference does; it does not normalise."""
        return Preprocessing(
            self.image_size,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            shorter_side=512,
            interpolation="bilinear",
            crop_rounding="half_even",
        )


_VARIANTS = {
    "biovil-t": _Variant("biovil_t_image_model_proj_size_128.pt", 448, multi_image=True),
    "biovil": _Variant("biovil_image_resnet50_proj_size_128.pt", 480, multi_image=False),
}


class BioViLEncoder(ImageEncoder):
    """One of the two image models; its keys are those of the published checkpoints.

    Args:
        variant: ``biovil-t`` (512 channels) or ``biovil`` (2,048 channels).
        preprocessing: makes its input; the published one unless told.
        name: what it was loaded as.
    """

    def __init__(
        self,
        variant: str,
        preprocessing: Preprocessing | None = None,
        *,
        name: str | None = None,
    ):
        super().__init__(name or variant, preprocessing or _VARIANTS[variant].preprocessing)
        self.variant = variant
        multi_image = _VARIANTS[variant].multi_image
        self.encoder: nn.Module = _MultiImageMap() if multi_image else _ImageMap()
        self._freeze(
            dim=2 * _STATIC_DIM if multi_image else _MAP_DIM, patch_size=_STRIDE, depth=_DEPTH
        )

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        feature_map: Tensor = self.encoder(pixel_values)  # [batch, dim, rows, columns]
        patches = feature_map.flatten(2).transpose(1, 2)
        return EncoderOutput(cls=patches.mean(1), patches=patches)

    def _save_weights(self, folder: Path) -> None:
        config = {"model_type": self.variant}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {key: tensor.contiguous() for key, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


class _ImageMap(nn.Module):
    """BioViL's feature map of one image: [batch, 2048, rows, columns]."""

    def __init__(self) -> None:
        super().__init__()
        # timm's has torchvision's arithmetic and keys, and gives the map without its pooling.
        self.encoder: Any = timm.create_model("resnet50", num_classes=0)

    def forward(self, pixel_values: Tensor) -> Tensor:
        feature_map: Tensor = self.encoder.forward_features(pixel_values)
        return feature_map


class _MultiImageMap(_ImageMap):
    """BioViL-T's of an image without a prior: [batch, 512, rows, columns]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_to_vit = nn.Conv2d(_MAP_DIM, _STATIC_DIM, kernel_size=1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, _STATIC_DIM, 1, 1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        static = self.backbone_to_vit(super().forward(pixel_values))
        return torch.cat([static, self.missing_previous_emb.expand_as(static)], dim=1)


def load(request: LoadRequest) -> BioViLEncoder:
    """Load a folder that holds a published checkpoint, or one that was saved from it.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
        ConfigError: another layer is asked for.
    """
    if request.layer is not None:
        raise ConfigError(
            f"layer {request.layer} was asked for, but a ResNet's feature maps differ in size and "
            "only the last is taken as tokens",
            where=request.name,
            remedy="Leave layer out",
        )
    saved_as = request.config.get("model_type")
    if saved_as in _VARIANTS:
        variant, file = saved_as, request.folder / "model.safetensors"
    else:
        variant, file = _published_checkpoint(request.folder)
    published = None if request.has_preprocessing() else _VARIANTS[variant].preprocessing
    encoder = BioViLEncoder(
        variant,
        request.final_preprocessing(published),
        name=request.name,
    )
    report = load_into(encoder, read_state_dict(file), source=file, ignore=_NOT_THE_TOKENS)
    encoder.to(request.dtype)
    encoder.load_report = report
    return encoder


def _published_checkpoint(folder: Path) -> tuple[str, Path]:
    names = {variant: folder / known.checkpoint for variant, known in _VARIANTS.items()}
    found = [(variant, file) for variant, file in names.items() if file.is_file()]
    if len(found) != 1:
        raise WeightsError(
            f"the folder holds {len(found) or 'none'} of the checkpoints "
            + " and ".join(file.name for file in names.values()),
            where=folder,
            remedy="Put one of them there under its published name; a download may be incomplete",
            kind="no_weights",
        )
    return found[0]

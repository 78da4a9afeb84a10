"""From a name, a folder, a file or a hub id to a loaded encoder."""

import importlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llava_rad.bundled import BUNDLED
from llava_rad.devices import pick_device, pick_dtype
from llava_rad.encoders.base import ImageEncoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.errors import ConfigError, WeightsError, shown
from llava_rad.hub import download, download_file
from llava_rad.readers import read_json
from llava_rad.weight_files import read_state_dict

# Such a file is published beside a text model, and the config.json there is that model's.
_BIOVIL_CHECKPOINTS = "biovil*_proj_size_128.pt"
# RadJEPA's, beside a config.json that names code.
_JEPA_CHECKPOINT = "jepa_encoder.pth.tar"


@dataclass(frozen=True)
class RegisteredEncoder:
    """A public encoder under a short name.

    Attributes:
        hub_id: repository on the Hugging Face hub.
        about: one line for listings.
        layer: block its tokens come from where that is not the output after the final norm.
        open_clip_files: names of the open_clip configuration and checkpoint, where the repository
            holds other things besides.
        only: pattern of BioViL's checkpoint, the one file to fetch beside a text model.
        file: the one weight file of the repository that is this encoder.
    """

    hub_id: str
    about: str
    layer: int | None = None
    open_clip_files: tuple[str, str] | None = None
    only: str | None = None
    file: str | None = None


ENCODERS: dict[str, RegisteredEncoder] = {
    "rad-dino": RegisteredEncoder("microsoft/rad-dino", "ViT-B/14, 518 px, DINOv2 on chest X-rays"),
    "rad-dino-maira-2": RegisteredEncoder(
        "microsoft/rad-dino-maira-2", "ViT-B/14, 518 px, the encoder of MAIRA-2"
    ),
    "dinov2-small": RegisteredEncoder("facebook/dinov2-small", "ViT-S/14, natural images"),
    "dinov2-base": RegisteredEncoder("facebook/dinov2-base", "ViT-B/14, natural images"),
    "dinov2-large": RegisteredEncoder("facebook/dinov2-large", "ViT-L/14, natural images"),
    "dinov2-small-registers": RegisteredEncoder(
        "facebook/dinov2-with-registers-small", "ViT-S/14, 4 registers, natural images"
    ),
    "dinov2-base-registers": RegisteredEncoder(
        "facebook/dinov2-with-registers-base", "ViT-B/14, 4 registers, natural images"
    ),
    "dinov2-large-registers": RegisteredEncoder(
        "facebook/dinov2-with-registers-large", "ViT-L/14, 4 registers, natural images"
    ),
    "dinov3-small": RegisteredEncoder(
        "facebook/dinov3-vits16-pretrain-lvd1689m", "ViT-S/16, 4 registers, natural images"
    ),
    "dinov3-base": RegisteredEncoder(
        "facebook/dinov3-vitb16-pretrain-lvd1689m", "ViT-B/16, 4 registers, natural images"
    ),
    "dinov3-large": RegisteredEncoder(
        "facebook/dinov3-vitl16-pretrain-lvd1689m", "ViT-L/16, 4 registers, natural images"
    ),
    "clip-base": RegisteredEncoder("openai/clip-vit-base-patch16", "CLIP ViT-B/16, 224 px"),
    "clip-large": RegisteredEncoder(
        "openai/clip-vit-large-patch14-336", "CLIP ViT-L/14, 336 px, the tower of LLaVA 1.5"
    ),
    "siglip-base": RegisteredEncoder("google/siglip-base-patch16-224", "SigLIP ViT-B/16, 224 px"),
    "siglip2-base": RegisteredEncoder(
        "google/siglip2-base-patch16-224", "SigLIP 2 ViT-B/16, 224 px"
    ),
    "biomedclip": RegisteredEncoder(
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "ViT-B/16, 224 px, CLIP on figures of biomedical papers",
    ),
    "biomedclip-cxr": RegisteredEncoder(
        "microsoft/llava-rad",
        "the tower of LLaVA-Rad, 518 px, CLIP on chest X-rays, tokens of the last but one block",
        layer=-2,
        open_clip_files=("biomedclipcxr_518.json", "biomedclipcxr_518_checkpoint.pt"),
    ),
    "biovil-t": RegisteredEncoder(
        "microsoft/BiomedVLP-BioViL-T",
        "ResNet-50, 448 px, learned from chest X-rays with priors and reports",
        only=_BIOVIL_CHECKPOINTS,
    ),
    "eva-x-tiny": RegisteredEncoder(
        "MapleF/eva_x",
        "ViT-Ti/16, 224 px, masked image modelling on chest X-rays",
        file="eva_x_tiny_patch16_merged520k_mim.pt",
    ),
    "eva-x-small": RegisteredEncoder(
        "MapleF/eva_x",
        "ViT-S/16, 224 px, masked image modelling on chest X-rays",
        file="eva_x_small_patch16_merged520k_mim.pt",
    ),
    "eva-x-base": RegisteredEncoder(
        "MapleF/eva_x",
        "ViT-B/16, 224 px, masked image modelling on chest X-rays",
        file="eva_x_base_patch16_merged520k_mim.pt",
    ),
    "biovil": RegisteredEncoder(
        "microsoft/BiomedVLP-CXR-BERT-specialized",
        "ResNet-50, 480 px, learned from chest X-rays with reports",
        only=_BIOVIL_CHECKPOINTS,
    ),
}

# config.json's model_type -> the module of this package whose load() reads such a folder.
_FAMILIES = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "clip": "clip",
    "clip_vision_model": "clip",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "siglip2": "siglip",
    "siglip2_vision_model": "siglip",
    "biovil": "biovil",
    "biovil-t": "biovil",
}

_OPEN_CLIP_CONFIG = "open_clip_config.json"

# Repositories often hold the same weights twice; PyTorch files are fetched only without the first.
_HUB_FILES = [
    "*.json",
    "model*.safetensors",
    "open_clip_model*.safetensors",
    _BIOVIL_CHECKPOINTS,
]
_HUB_PYTORCH_FILES = ["pytorch_model*.bin", "open_clip_pytorch_model*.bin", _JEPA_CHECKPOINT]


def load_encoder(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    layer: int | None = None,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageEncoder:
    """Load a frozen image encoder together with its preprocessing.

    Args:
        name_or_path: one of, tried in this order:

            - ``"mini"``, the encoder of the bundled model, or a name of :data:`ENCODERS`, such as
              ``"rad-dino"``;
            - a folder: what :meth:`ImageEncoder.save_pretrained` or this project's pretraining
              wrote (the run's folder too), a report model of this project, for its encoder, a
              transformers, timm or open_clip model, or BioViL's or RadJEPA's published checkpoint;
            - a weight file in the layout of the original DINOv2 or DINOv3 repository (CheXFound's
              is one), of the I-JEPA code, or of EVA-X, with a ``preprocessor_config.json`` beside
              it or ``preprocessing`` given;
            - a hub id, ``"owner/name"``.
        revision: branch, tag or commit of a hub repository.
        dtype: of the weights, whatever the file holds; see :func:`llava_rad.devices.pick_dtype`.
        device: where to put it, see :func:`llava_rad.devices.pick_device`; None is the CPU.
        layer: see :class:`ImageEncoder`; None keeps what was saved or registered.
        image_size: side of the input in pixels, where it shall differ from the published one.
        preprocessing: instead of the one saved with the weights.

    Raises:
        WeightsError: not found, not downloadable, or not fitting; the remedy says what to do.
        ConfigError: an argument cannot be followed, or there is no such device.

    Example:
        >>> encoder = llava_rad.load_encoder("mini", device="cpu")
        >>> encoder.dim, encoder.num_tokens
        (192, 144)
    """
    name = str(name_or_path)
    entry = ENCODERS.get(name)
    place = None if device is None else pick_device(device)
    path = encoder_folder(name)
    if revision is not None and entry is None and path.exists():
        raise ConfigError(
            f"revision '{revision}' was given for a local path",
            where=name,
            remedy="Leave revision out: only hub repositories have revisions",
        )
    request = LoadRequest(
        folder=path,
        name=name,
        dtype=pick_dtype(dtype, place or "cpu"),
        layer=layer if layer is not None else entry.layer if entry else None,
        image_size=image_size,
        preprocessing=preprocessing,
    )
    if entry:
        encoder = _load_registered(entry, request, revision)
    elif path.is_dir():
        encoder = _load_folder(request)
    elif path.is_file():
        encoder = _load_file(replace(request, folder=path.parent), path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        encoder = _load_folder(replace(request, folder=_download(name, revision)))
    else:
        raise WeightsError(
            "there is no such encoder, folder or file",
            where=name,
            remedy="Use a path that exists, a hub id 'owner/name', or one of "
            + ", ".join((*BUNDLED, *ENCODERS)),
            kind="no_such_encoder",
        )
    return encoder.to(place) if place is not None else encoder


def encoder_folder(name: str) -> Path:
    """The folder or file that a name stands for on this machine, whether or not there is one.

    ``mini`` is the encoder of the bundled model; of a pretraining's run and of a report model it is
    the encoder inside.
    """
    if name in BUNDLED:
        return BUNDLED[name] / "encoder"
    folder = Path(name).expanduser()
    inner = folder / "encoder"
    outer_is_none = (folder / "adapter.safetensors").exists() or not (
        folder / "config.json"
    ).exists()
    return inner if outer_is_none and (inner / "config.json").is_file() else folder


def _load_registered(
    entry: RegisteredEncoder, request: LoadRequest, revision: str | None
) -> ImageEncoder:
    if entry.only:
        from llava_rad.encoders import biovil

        folder = _download(entry.hub_id, revision, files=(entry.only,))
        return biovil.load(replace(request, folder=folder))
    if entry.file:
        file = download_file(entry.hub_id, entry.file, revision, what="encoder")
        return _load_file(replace(request, folder=file.parent), file)
    if entry.open_clip_files is None:
        return _load_folder(replace(request, folder=_download(entry.hub_id, revision)))
    from llava_rad.encoders.open_clip_vit import load_open_clip

    folder = _download(entry.hub_id, revision, files=entry.open_clip_files)
    config, weights = entry.open_clip_files
    return load_open_clip(
        folder / config,
        folder / weights,
        preprocessing=request.preprocessing,
        name=request.name,
        dtype=request.dtype,
        layer=request.layer,
        image_size=request.image_size,
    )


def _load_file(request: LoadRequest, file: Path) -> ImageEncoder:
    """A weight file alone; what it is shows in its keys."""
    from llava_rad.encoders import dinov2_repo, dinov3, eva_x, jepa

    state = read_state_dict(file)
    if jepa.is_jepa_state(state):
        return jepa.load_state(state, request, file)
    if eva_x.is_eva_x_state(state):
        return eva_x.load_state(state, request, file)
    if dinov3.is_repo_state(state):
        return dinov3.load_repo_state(state, request, file)
    return dinov2_repo.load_repo_state(state, request, file)


def _load_folder(request: LoadRequest) -> ImageEncoder:
    if (request.folder / _OPEN_CLIP_CONFIG).is_file():
        from llava_rad.encoders import open_clip_vit

        return open_clip_vit.load(request)
    if any(request.folder.glob(_BIOVIL_CHECKPOINTS)):
        from llava_rad.encoders import biovil

        return biovil.load(request)
    if (request.folder / _JEPA_CHECKPOINT).is_file():
        from llava_rad.encoders import jepa

        return jepa.load(request)
    path = request.folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"there is no config.json or {_OPEN_CLIP_CONFIG} in the folder",
            where=request.folder,
            remedy="Name the folder that holds the encoder itself, weights and configuration",
            kind="no_config",
        )
    config = read_json(path, error=WeightsError, expect=dict, remedy="Restore the file")
    named = config.get("model_type")
    family = _FAMILIES.get(named) if isinstance(named, str) else None
    if family is None and "architecture" in config:
        family = "timm_vit"
    if family is None:
        raise WeightsError(
            f"model_type {shown(named)} is not a supported image encoder",
            where=path,
            remedy=f"Use one of {', '.join(_FAMILIES)}, a timm ViT or an open_clip model",
            kind="unsupported_family",
        )
    module = importlib.import_module(f"llava_rad.encoders.{family}")
    return module.load(replace(request, config=config))


def _download(hub_id: str, revision: str | None, files: tuple[str, ...] = ()) -> Path:
    """The folder of a hub repository in the local cache, fetched if it is not there yet."""
    wanted = list(files) or _HUB_FILES
    folder = download(hub_id, wanted, revision, what="encoder")
    if not files and not any(folder.glob(pattern) for pattern in _HUB_FILES[1:]):
        download(hub_id, _HUB_PYTORCH_FILES, revision, what="encoder")
    return folder

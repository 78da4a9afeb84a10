"""From an 8-bit radiograph to the encoder's input tensor, the same way in every program.

Training, evaluation, the command line and the server all call :class:`Preprocessing`. It is saved
with the weights as ``preprocessor_config.json``, readable by transformers' image processors, with
two keys of our own beside theirs: ``geometry`` and ``rendering``.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, Union, get_args

import numpy as np
import torch
from PIL import Image

from llava_rad.boxes import Box
from llava_rad.errors import ConfigError, ImageError, WeightsError, cut, described, shown
from llava_rad.readers import read_json

if TYPE_CHECKING:
    from llava_rad.images import Radiograph, Rendering

Geometry = Literal["shorter_side_center_crop", "pad_square", "resize"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropRounding = Literal["floor", "half_even"]
ResizeIn = Literal["bytes", "float"]

FILE_NAME = "preprocessor_config.json"

_PIL_FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_RENDERINGS = ("minmax", "voi")
# Far more than any encoder takes; more would fill the memory with one image.
_LARGEST_SIDE = 8192

# Which of transformers' image processors does the same arithmetic.
_HF_PROCESSORS: dict[str, str] = {
    "shorter_side_center_crop": "BitImageProcessor",
    "pad_square": "LlavaImageProcessor",
    "resize": "ViTImageProcessor",
}
_FLOAT_PROCESSOR = "DINOv3ViTImageProcessor"

# transformers' image processors whose arithmetic is done here, without their endings, and what
# they do where the file does not say.
_KNOWN_PROCESSORS: dict[str, dict[str, Any]] = {
    "Bit": {"do_center_crop": True},
    "CLIP": {"do_center_crop": True},
    "Llava": {"do_center_crop": True},
    "ViT": {},
    "Siglip": {},
    "Siglip2": {},
    "DINOv3ViT": {},
    "LlavaRad": {},  # of llava_rad.hf: this very arithmetic
}
_PROCESSOR_ENDINGS = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")
# MAIRA-2 names code for text and image together; its part for the image is the minimum-maximum
# rendering and the processor that the same file describes.
_KNOWN_CODE = {"AutoProcessor": "processing_maira2.Maira2Processor"}
# Keys that change nothing for a gray image, and those that are read here.
_READ = {
    "do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad", "size", "crop_size",
    "resample", "rescale_factor", "image_mean", "image_std", "max_num_patches", "patch_size",
    "image_processor_type", "feature_extractor_type", "auto_map", "default_to_square",
    "geometry", "rendering", "crop_rounding", "resize_in", "equalize",
}  # fmt: skip
_HARMLESS = {
    "do_convert_rgb", "do_convert_grayscale", "do_reduce_labels", "processor_class",
    "_processor_class", "_valid_processor_keys", "return_tensors", "data_format",
    "input_data_format", "device", "disable_grouping", "image_seq_length", "transformers_version",
    "num_additional_image_tokens", "vision_feature_select_strategy", "image_token", "num_channels",
}  # fmt: skip

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How a radiograph becomes ``pixel_values``: resize, crop or pad, normalise, three channels.

    The resize runs on the single gray channel (once for each gray that pads), in 8 bits with Pillow
    (antialiased), which is bit for bit what transformers' Pillow processors do on three channels.

    Attributes:
        image_size: side of the square output in pixels.
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        geometry: ``shorter_side_center_crop`` resizes the shorter side and cuts the overhanging
            ends of the longer one; ``pad_square`` pads to a square with each channel's mean, as
            LLaVA 1.5 does, and keeps everything; ``resize`` squeezes to a square.
        interpolation: filter of the resize.
        rendering: the 8-bit rendering of :func:`llava_rad.images.load_radiograph` that the encoder
            was trained with.
        shorter_side: length of the shorter side before the crop; ``image_size`` unless told, and
            only of use with ``shorter_side_center_crop``.
        crop_rounding: where an odd overhang is cut: ``floor`` as transformers does, ``half_even``
            as torchvision and so open_clip and timm do.
        resize_in: ``bytes`` as above; ``float`` scales to 0..1 first and resizes that with torch,
            as the processor of DINOv3 does.
        equalize: spread the histogram of the whole image before anything else, as
            ``cv2.equalizeHist`` does and CXformer was trained with.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    geometry: Geometry = "shorter_side_center_crop"
    interpolation: Interpolation = "bicubic"
    rendering: "Rendering" = "minmax"
    shorter_side: int | None = None
    crop_rounding: CropRounding = "floor"
    resize_in: ResizeIn = "bytes"
    equalize: bool = False

    def __post_init__(self) -> None:
        _allowed("geometry", self.geometry, get_args(Geometry))
        _allowed("interpolation", self.interpolation, get_args(Interpolation))
        _allowed("rendering", self.rendering, _RENDERINGS)
        _allowed("crop_rounding", self.crop_rounding, get_args(CropRounding))
        _allowed("resize_in", self.resize_in, get_args(ResizeIn))
        if not isinstance(self.equalize, bool):
            raise ConfigError(
                f"equalize is {shown(self.equalize)}",
                where="preprocessing",
                remedy="Use true or false",
            )
        if self.resize_in == "float" and (
            self.geometry == "pad_square" or self.interpolation not in ("bilinear", "bicubic")
        ):
            raise ConfigError(
                f"resize_in is 'float' with {self.geometry} and {self.interpolation}",
                where="preprocessing",
                remedy="Resize in float without padding, bilinear or bicubic, or resize in bytes",
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}", where="preprocessing", remedy="Use values > 0")
        for name in ("image_size", "shorter_side"):
            _side_in_range(name, getattr(self, name))
        if self.geometry != "shorter_side_center_crop":
            object.__setattr__(self, "shorter_side", None)
        elif self.shorter_side is None:
            object.__setattr__(self, "shorter_side", self.image_size)
        elif self.shorter_side < self.image_size:
            raise ConfigError(
                f"shorter_side {self.shorter_side} is below image_size {self.image_size}: "
                "the crop would reach outside the image",
                where="preprocessing",
                remedy="Raise shorter_side or lower image_size",
            )

    def __call__(self, image: Union["Radiograph", np.ndarray]) -> torch.Tensor:
        """Make the encoder's input.

        Args:
            image: a radiograph, or its pixels as uint8 [height, width].

        Returns:
            float32 [3, image_size, image_size].

        Raises:
            ConfigError: the radiograph was rendered another way than the encoder was trained with.
            ImageError: the pixels are not 8-bit grayscale.
        """
        if isinstance(image, np.ndarray):
            pixels = image
        else:
            pixels = image.pixels
            if image.rendering != self.rendering:
                raise ConfigError(
                    f"the radiograph was rendered with '{image.rendering}', "
                    f"the encoder was trained with '{self.rendering}'",
                    where=image.source,
                    remedy=f"Use load_radiograph(..., rendering='{self.rendering}')",
                    kind="other_rendering",
                )
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or 0 in pixels.shape:
            raise ImageError(
                f"expected uint8 pixels [height, width], got {pixels.dtype} {list(pixels.shape)}",
                remedy="Read the file with llava_rad.images.load_radiograph",
                kind="not_grayscale_8bit",
            )
        if self.equalize:
            pixels = equalized(pixels)
        if self.resize_in == "float":
            return self._in_float(pixels)
        picture = Image.fromarray(pixels)
        borders = [int(mean * 255) for mean in self.mean]
        if self.geometry != "pad_square" or picture.width == picture.height:
            borders = [0, 0, 0]  # none is drawn
        squares = {border: self._to_square(picture, border) for border in set(borders)}
        levels = self._normalised_levels()
        channels = [level[squares[border]] for level, border in zip(levels, borders, strict=True)]
        return torch.from_numpy(np.stack(channels))

    def _to_square(self, image: Image.Image, border: int) -> np.ndarray:
        """Pixels uint8 [image_size, image_size]; ``border`` is the gray of the padding."""
        size, resample = self.image_size, _PIL_FILTERS[self.interpolation]
        width, height = image.size
        if self.geometry == "pad_square" and width != height:
            side = max(width, height)
            padded = Image.new("L", (side, side), border)
            padded.paste(image, ((side - width) // 2, (side - height) // 2))
            image = padded
        if self.geometry != "shorter_side_center_crop":
            return np.asarray(image.resize((size, size), resample))

        pixels = np.asarray(image.resize(self._resized(height, width)[::-1], resample))
        top, left = (self._crop_start(length - size) for length in pixels.shape)
        return pixels[top : top + size, left : left + size]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop."""
        if self.geometry != "shorter_side_center_crop":
            return self.image_size, self.image_size
        target = self.shorter_side or self.image_size
        # Integer arithmetic would round otherwise than the processors this has to equal.
        long = int(target * max(width, height) / min(width, height))
        return (long, target) if width <= height else (target, long)

    def _in_float(self, pixels: np.ndarray) -> torch.Tensor:
        """The same on the scale 0 to 1: float32 [3, image_size, image_size]."""
        size = self.image_size
        image = torch.from_numpy(np.array(pixels)) * (1 / 255)
        resized = torch.nn.functional.interpolate(
            image[None, None],
            self._resized(*pixels.shape),
            mode=self.interpolation,
            align_corners=False,
            antialias=True,
        )[0]
        top, left = (self._crop_start(length - size) for length in resized.shape[1:])
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (resized[:, top : top + size, left : left + size] - mean) / std

    def _crop_start(self, overhang: int) -> int:
        return overhang // 2 if self.crop_rounding == "floor" else round(overhang / 2)

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where the encoder's square lies on an image of this size.

        Returns:
            Top, left, bottom and right in pixels of the image, beyond it where it was padded.
        """
        if self.geometry == "pad_square":
            side = max(height, width)
            above, before = (side - height) // 2, (side - width) // 2
            return -above, -before, side - above, side - before
        resized = self._resized(height, width)
        down, right = (had / made for had, made in zip((height, width), resized, strict=True))
        top, left = (self._crop_start(length - self.image_size) for length in resized)
        bottom, end = top + self.image_size, left + self.image_size
        return top * down, left * right, bottom * down, end * right

    def box_in_square(self, box: Box, height: int, width: int) -> Box | None:
        """A box of an image of this size, in shares of the square that the encoder sees.

        Returns:
            What of it the square shows; None where that is nothing.
        """
        top, left, bottom, right = self.seen(height, width)
        edges = (
            (box.x_min * width - left) / (right - left),
            (box.y_min * height - top) / (bottom - top),
            (box.x_max * width - left) / (right - left),
            (box.y_max * height - top) / (bottom - top),
        )
        return _inside(*edges)

    def box_on_image(self, box: Box, height: int, width: int) -> Box | None:
        """The inverse of :meth:`box_in_square`.

        Returns:
            What of the box lies on the image and not on its padding; None where that is nothing.
        """
        top, left, bottom, right = self.seen(height, width)
        edges = (
            (left + box.x_min * (right - left)) / width,
            (top + box.y_min * (bottom - top)) / height,
            (left + box.x_max * (right - left)) / width,
            (top + box.y_max * (bottom - top)) / height,
        )
        return _inside(*edges)

    def _normalised_levels(self) -> np.ndarray:
        """Each of the 256 gray levels after scaling and normalising: float32 [3, 256]."""
        levels = (np.arange(256) * (1 / 255)).astype(np.float32)
        mean = np.array(self.mean, np.float32)[:, None]
        std = np.array(self.std, np.float32)[:, None]
        return (levels[None] - mean) / std

    def with_image_size(self, image_size: int) -> "Preprocessing":
        """The same preprocessing at another output size, the crop keeping its share."""
        if image_size == self.image_size:
            return self
        shorter_side = self.shorter_side
        if shorter_side is not None:
            shorter_side = round(shorter_side * image_size / self.image_size)
        return replace(self, image_size=image_size, shorter_side=shorter_side)

    def require_same(self, other: "Preprocessing", *, where: object = None) -> None:
        """Refuse an encoder input made another way than the model was trained with.

        Raises:
            ConfigError: naming each field that differs, with both values.
        """
        differing = [
            f"{field.name} {getattr(self, field.name)!r} against {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        if differing:
            raise ConfigError(
                "the image preprocessing differs from the saved one: " + "; ".join(differing),
                where=where,
                remedy="Use the preprocessing saved with the weights, or train again with the "
                "other one",
                kind="other_preprocessing",
            )

    def to_dict(self) -> dict[str, Any]:
        """The content of ``preprocessor_config.json``, readable by transformers."""
        square = {"height": self.image_size, "width": self.image_size}
        crop = self.geometry != "resize"
        config: dict[str, Any] = {
            "image_processor_type": _HF_PROCESSORS[self.geometry],
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.shorter_side or self.image_size} if crop else square,
            "resample": int(_PIL_FILTERS[self.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "geometry": self.geometry,
            "rendering": self.rendering,
        }
        if crop:
            config |= {"do_center_crop": True, "crop_size": square}
        if self.geometry == "pad_square":
            config["do_pad"] = True
        if self.crop_rounding != "floor":
            config["crop_rounding"] = self.crop_rounding
        if self.resize_in == "float":
            config |= {"image_processor_type": _FLOAT_PROCESSOR, "resize_in": "float"}
        if self.equalize:
            config["equalize"] = True
        return config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], *, where: object = None) -> "Preprocessing":
        """Read the keys of ``preprocessor_config.json``, ours or one published with a model.

        Configurations of transformers' CLIP, SigLIP, BiT, ViT, LLaVA and DINOv3 processors are
        understood. A file without our ``rendering`` key is taken as ``minmax``, the project's
        default.

        Raises:
            ConfigError: a setting is missing, asks for something this class does not do, or is
                unknown: another processor, code of the model's own, a step besides.
        """
        reader = _ProcessorReader(config, where)
        shape = reader.shape()
        saved_geometry = config.get("geometry", shape["geometry"])
        if saved_geometry != shape["geometry"]:
            raise ConfigError(
                f"geometry is {shown(saved_geometry)} but the other keys say '{shape['geometry']}'",
                where=where,
                remedy="Restore the file as it was saved",
            )
        mean, std = reader.mean_and_std()
        return cls(
            **shape,
            mean=mean,
            std=std,
            interpolation=reader.interpolation(),
            rendering=config.get("rendering", "minmax"),
            crop_rounding=config.get("crop_rounding", "floor"),
            resize_in=reader.resize_in(),
            equalize=config.get("equalize", False),
        )

    def write(self, folder: str | Path) -> Path:
        """Write ``preprocessor_config.json`` into a folder that exists; returns its path."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, folder: str | Path) -> "Preprocessing":
        """Read the preprocessing saved in a folder of weights.

        Raises:
            WeightsError: the folder has none. Nothing is assumed in its place.
            ConfigError: it has one that cannot be followed.
        """
        folder = Path(folder)
        for name in (FILE_NAME, "processor_config.json"):
            path = folder / name
            if not path.is_file():
                continue
            config = _read_json(path)
            # transformers 5 nests the image processor of a multimodal processor.
            config = config.get("image_processor", config)
            if not isinstance(config, Mapping):
                raise ConfigError(
                    f"image_processor is {described(config)}", where=path, remedy="Restore the file"
                )
            if _SAYS_HOW & set(config):
                return cls.from_dict(config, where=path)
        raise WeightsError(
            f"there is no {FILE_NAME}, so how to prepare images for these weights is unknown",
            where=folder,
            remedy=f"Copy {FILE_NAME} from the model's repository into the folder, or pass "
            "preprocessing=Preprocessing(...)",
            kind="no_preprocessing",
        )


# A file with one of these describes an image processor, and not a text one alone.
_SAYS_HOW = {"image_mean", "size", "max_num_patches", "image_processor_type", "auto_map"}


class _ProcessorReader:
    """Translates the many spellings of transformers' processor files."""

    def __init__(self, config: Mapping[str, Any], where: object) -> None:
        self.where = where
        self.kind = self._kind(config)
        self.config = {**_KNOWN_PROCESSORS.get(self.kind, {}), **config}
        for key, value in config.items():
            if key not in _READ | _HARMLESS and value not in (None, False):
                raise self._refuse(f"{cut(str(key), 60)} is {shown(value)}, which is unknown here")
        for switch in ("do_resize", "do_rescale"):
            if config.get(switch, True) is not True:
                raise self._refuse(f"{switch} is {shown(config[switch])}")
        factor = config.get("rescale_factor", 1 / 255)
        if not _is_number(factor) or abs(factor * 255 - 1) > 1e-6:
            raise self._refuse(f"rescale_factor is {shown(factor)}, not 1/255")

    def _kind(self, config: Mapping[str, Any]) -> str:
        """The processor's name without its endings; empty where the file does not say."""
        own = config.get("auto_map") or {}
        for task, code in own.items() if isinstance(own, Mapping) else ((None, own),):
            if task is None or _KNOWN_CODE.get(task) != code:
                raise self._refuse(
                    f"it is done by the model's own code ({cut(str(code), 100)}), which is not run"
                )
        named = config.get("image_processor_type") or config.get("feature_extractor_type")
        kind = _PROCESSOR_ENDINGS.sub("", str(named or ""))
        if named and kind not in _KNOWN_PROCESSORS:
            raise self._refuse(f"the processor {cut(str(named), 60)} is unknown here")
        return kind

    def resize_in(self) -> ResizeIn:
        """``float`` for DINOv3's processor, which cannot do otherwise."""
        return "float" if self.kind == "DINOv3ViT" else self.config.get("resize_in", "bytes")

    def shape(self) -> dict[str, Any]:
        """``geometry``, ``image_size`` and, where it matters, ``shorter_side``."""
        config = self.config
        if "max_num_patches" in config:  # SigLIP 2 NaFlex: any grid of at most so many patches
            patches, side = config["max_num_patches"], config.get("patch_size", 16)
            if not (_is_whole(patches) and _is_whole(side) and 0 < patches < 10**9):
                raise self._refuse(
                    f"max_num_patches is {shown(patches)} with patch_size {shown(side)}"
                )
            return {"geometry": "resize", "image_size": int(patches**0.5) * side}

        size, crops = config.get("size"), bool(config.get("do_center_crop", False))
        if _is_whole(size):
            size = {"shortest_edge": size} if crops else {"height": size, "width": size}
        if not isinstance(size, Mapping):
            raise self._refuse(f"size is {shown(size)}")
        if "shortest_edge" in size:
            if not crops:
                raise self._refuse("do_center_crop is off, which gives images of many shapes")
            shorter, crop = size["shortest_edge"], self._side("crop_size")
            if not _is_whole(shorter):
                raise self._refuse(f"shortest_edge is {shown(shorter)}, not a whole number")
            if config.get("do_pad", False):
                if crop != shorter:
                    raise self._refuse(f"do_pad with size {shorter} and crop_size {crop}")
                return {"geometry": "pad_square", "image_size": crop}
            return {
                "geometry": "shorter_side_center_crop",
                "image_size": crop,
                "shorter_side": shorter,
            }
        side = self._side("size")
        if crops and self._side("crop_size") != side:
            raise self._refuse(f"a square resize to {side} with another crop_size")
        return {"geometry": "resize", "image_size": side}

    def mean_and_std(self) -> tuple[Any, Any]:
        if self.config.get("do_normalize", True) is not True:
            return 0.0, 1.0
        missing = [key for key in ("image_mean", "image_std") if self.config.get(key) is None]
        if missing:
            raise self._refuse(f"{' and '.join(missing)} missing")
        return self.config["image_mean"], self.config["image_std"]

    def interpolation(self) -> Interpolation:
        resample = self.config.get("resample")
        for name in get_args(Interpolation):
            if resample == int(_PIL_FILTERS[name]):
                return name
        raise self._refuse(f"resample is {shown(resample)}")

    def _side(self, key: str) -> int:
        value = self.config.get(key)
        if isinstance(value, Mapping) and value.get("height") == value.get("width"):
            value = value.get("height")
        if not _is_whole(value):
            raise self._refuse(f"{key} is {shown(value)}, not a square")
        return value

    def _refuse(self, what: str) -> ConfigError:
        return ConfigError(
            f"this image preprocessing is not supported: {what}",
            where=self.where,
            remedy="Pass preprocessing=Preprocessing(...) with what the weights were trained with",
            kind="unsupported_preprocessing",
        )


def _inside(x_min: float, y_min: float, x_max: float, y_max: float) -> Box | None:
    left, upper, right, lower = (min(max(edge, 0.0), 1.0) for edge in (x_min, y_min, x_max, y_max))
    return Box(left, upper, right, lower) if left < right and upper < lower else None


def equalized(pixels: np.ndarray) -> np.ndarray:
    """An image with its histogram spread over all grays, as ``cv2.equalizeHist`` does it.

    Args:
        pixels: uint8 [height, width].

    Returns:
        Likewise; an image of a single gray comes back as it is.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    rest = pixels.size - int(counts[lowest])
    if not rest:
        return pixels
    above = np.cumsum(counts) - counts[: lowest + 1].sum()  # pixels from the second gray on
    scale = np.float32(255) / np.float32(rest)
    levels = np.rint(above.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)
    return levels[pixels]


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, error=ConfigError, expect=dict, remedy="Restore the file")


def _allowed(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} is {shown(value)}",
            where="preprocessing",
            remedy=f"Use one of {', '.join(allowed)}",
        )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int | float]:
    return (_is_whole(value) and abs(value) < 2**63) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _side_in_range(name: str, value: object) -> None:
    if value is not None and not (_is_whole(value) and 1 <= value <= _LARGEST_SIDE):
        raise ConfigError(
            f"{name} is {shown(value)}",
            where="preprocessing",
            remedy=f"Use a whole number from 1 to {_LARGEST_SIDE}",
        )


def _three(name: str, value: object) -> tuple[float, float, float]:
    given = value if isinstance(value, list | tuple) else (value,)
    if len(given) not in (1, 3) or not all(map(_is_number, given)):
        raise ConfigError(
            f"{name} is {shown(value)}",
            where="preprocessing",
            remedy="Give one finite number or three",
        )
    first, *rest = map(float, given)
    return (first, rest[0], rest[1]) if rest else (first, first, first)


RAD_DINO = Preprocessing(image_size=518, mean=(0.5307,) * 3, std=(0.2583,) * 3)
"""What RAD-DINO's published processor does."""

DINOV2 = Preprocessing(image_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, shorter_side=256)
"""What the processors published with DINOv2's weights do."""

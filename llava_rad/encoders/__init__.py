"""Frozen image encoders: one interface, one registry, one file a family, weight layouts.

:func:`load_encoder` turns a name, a folder, a file or a hub id into an :class:`ImageEncoder`, whose
``preprocessing`` makes its input and whose ``encode`` gives the CLS vector and the patch tokens.
Layouts that need more than a path have loaders of their own: ``open_clip_vit.load_open_clip`` (a
JSON and a checkpoint) and ``dinov2_repo.load_repo_encoder``, beside which stand the conversions to
and from the original DINOv2 repository's keys.
"""

from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import DINOV2, RAD_DINO, Preprocessing
from llava_rad.encoders.registry import ENCODERS, RegisteredEncoder, load_encoder
from llava_rad.encoders.weights import LoadReport

__all__ = [
    "DINOV2",
    "ENCODERS",
    "RAD_DINO",
    "EncoderOutput",
    "ImageEncoder",
    "LoadReport",
    "Preprocessing",
    "RegisteredEncoder",
    "load_encoder",
]

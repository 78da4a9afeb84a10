"""Findings text from chest X-rays: train, check and run radiology report models.

The public names are imported on first use, so that ``import llava_rad`` stays fast. Where
transformers is there already, it learns this project's models at once; else with ``load``.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "llava_rad.model",
    "load_encoder": "llava_rad.encoders",
    "load_radiograph": "llava_rad.images",
    "Radiograph": "llava_rad.images",
    "Report": "llava_rad.reports.generate",
    "generate_reports": "llava_rad.reports.generate",
}

__all__ = [
    "Radiograph",
    "Report",
    "__version__",
    "generate_reports",
    "load",
    "load_encoder",
    "load_radiograph",
]

if TYPE_CHECKING:
    from llava_rad.encoders import load_encoder
    from llava_rad.images import Radiograph, load_radiograph
    from llava_rad.model import load
    from llava_rad.reports.generate import Report, generate_reports


def __getattr__(name: str) -> Any:
    if name == "load":
        importlib.import_module("llava_rad.hf")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'llava_rad' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)


if "transformers" in sys.modules:
    importlib.import_module("llava_rad.hf")

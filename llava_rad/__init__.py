"""Findings text from chest X-rays: train, check and run radiology report models.

The public names are imported on first use, so that ``import llava_rad`` stays fast. Where
transformers is there already, it learns this project's models at once; else with ``load``.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Failure": "llava_rad.reports",
    "GenerationSettings": "llava_rad.reports",
    "Radiograph": "llava_rad.images",
    "Report": "llava_rad.reports",
    "ReportWriter": "llava_rad.reports",
    "ScoreTable": "llava_rad.evaluation",
    "Study": "llava_rad.data",
    "StudyImage": "llava_rad.data",
    "generate_reports": "llava_rad.reports",
    "load": "llava_rad.reports",
    "load_encoder": "llava_rad.encoders",
    "load_radiograph": "llava_rad.images",
    "score": "llava_rad.evaluation",
}

__all__ = [
    "Failure",
    "GenerationSettings",
    "Radiograph",
    "Report",
    "ReportWriter",
    "ScoreTable",
    "Study",
    "StudyImage",
    "__version__",
    "generate_reports",
    "load",
    "load_encoder",
    "load_radiograph",
    "score",
]

if TYPE_CHECKING:
    from llava_rad.data import Study, StudyImage
    from llava_rad.encoders import load_encoder
    from llava_rad.evaluation import ScoreTable, score
    from llava_rad.images import Radiograph, load_radiograph
    from llava_rad.reports import (
        Failure,
        GenerationSettings,
        Report,
        ReportWriter,
        generate_reports,
        load,
    )


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

"""Data: studies, manifests and the adapters that turn public data sets into manifests.

:mod:`study` says what a study is, :mod:`manifest` stores lists of them; each public data set has
one adapter file of its name with a ``read`` function, named in :mod:`convert`.
"""

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.convert import ADAPTERS, ConversionReport, adapter_options, convert
from llava_rad.data.manifest import (
    as_dataset,
    check_studies,
    features,
    hash_manifest,
    load_manifest,
    save_manifest,
)
from llava_rad.data.study import PriorStudy, Study, StudyImage

__all__ = [
    "ADAPTERS",
    "ConversionLog",
    "ConversionReport",
    "PriorStudy",
    "Study",
    "StudyImage",
    "adapter_options",
    "as_dataset",
    "check_studies",
    "convert",
    "features",
    "hash_manifest",
    "load_manifest",
    "save_manifest",
]

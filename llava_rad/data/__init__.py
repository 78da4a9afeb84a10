"""Data: studies, manifests and the adapters that turn public data sets into manifests.

:mod:`study` says what a study is, :mod:`manifest` stores lists of them; each public data set has
one adapter file of its name with a ``read`` function, named in :mod:`adapters`.
"""

from llava_rad.data.adapters import (
    ADAPTERS,
    ConversionReport,
    adapter_options,
    convert,
    describe,
)
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.identifiers import Identifiers
from llava_rad.data.inputs import expand_images, expand_inputs
from llava_rad.data.manifest import (
    as_dataset,
    check_studies,
    features,
    hash_manifest,
    load_manifest,
    save_manifest,
)
from llava_rad.data.sections import ReportSections, parse_report
from llava_rad.data.splitting import hold_out
from llava_rad.data.study import PriorStudy, Study, StudyImage
from llava_rad.data.targets import SECTIONS, Section, TargetSelection, select_targets

__all__ = [
    "ADAPTERS",
    "SECTIONS",
    "ConversionLog",
    "ConversionReport",
    "FindingBox",
    "Identifiers",
    "PriorStudy",
    "ReportSections",
    "Section",
    "Study",
    "StudyImage",
    "TargetSelection",
    "adapter_options",
    "as_dataset",
    "check_studies",
    "convert",
    "describe",
    "expand_images",
    "expand_inputs",
    "features",
    "hash_manifest",
    "hold_out",
    "load_manifest",
    "parse_report",
    "save_manifest",
    "select_targets",
]

"""Every kind of input that is tried."""

from fuzz.dicom import DICOM
from fuzz.inputs import Kind
from fuzz.models import CHECKPOINT, ENCODER, LLM, MODEL
from fuzz.rasters import RASTER
from fuzz.settings import YAML
from fuzz.studies import FOREIGN, JSONL, PARQUET, PREDICTIONS
from fuzz.tables import TABLES

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(DICOM, RASTER, JSONL, PARQUET, FOREIGN, TABLES, YAML, PREDICTIONS),
        *(ENCODER, LLM, MODEL, CHECKPOINT),
    )
}

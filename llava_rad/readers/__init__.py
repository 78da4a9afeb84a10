"""The only readers of text files, JSON, YAML and tables, for every part of the project.

Whatever a library below raises becomes the error class that the caller names, with file, line and
remedy. The formats' traps (words for "missing", quotes that are not closed, rows cut off, numbers
that are no numbers) are known here and nowhere else.
"""

from llava_rad.readers.json_text import CONSTANTS, parse_json, read_json, read_json_lines
from llava_rad.readers.missing import is_missing
from llava_rad.readers.tables import (
    TABLE_ENDINGS,
    Row,
    read_columns,
    read_parquet,
    read_row,
    read_table,
)
from llava_rad.readers.text import read_text
from llava_rad.readers.yaml_text import parse_yaml

__all__ = [
    "CONSTANTS",
    "TABLE_ENDINGS",
    "Row",
    "is_missing",
    "parse_json",
    "parse_yaml",
    "read_columns",
    "read_json",
    "read_json_lines",
    "read_parquet",
    "read_row",
    "read_table",
    "read_text",
]

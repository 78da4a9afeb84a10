"""Small trees in the layout of a data set, made by the test that reads them."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Path]:
    """Write files (path to content) below a fresh folder and return it."""

    def make(files: Mapping[str, str | bytes]) -> Path:
        root = tmp_path / "root"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return root

    return make


@pytest.fixture
def picture() -> Callable[[int, int], bytes]:
    """The content of a PNG of so many rows and columns."""

    def make(rows: int, columns: int) -> bytes:
        content = io.BytesIO()
        Image.new("L", (columns, rows), 100).save(content, "PNG")
        return content.getvalue()

    return make

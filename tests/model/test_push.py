"""A model goes to the hub with its card, and nothing else of its folder does. Nothing is sent."""

import huggingface_hub
import pytest
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm

import llava_rad
from llava_rad.errors import ModelError, WeightsError
from llava_rad.model import LoraSettings, ReportModel


class Hub:
    """Keeps what it is given."""

    made: dict
    files: dict

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        Hub.made = {"name": name, "private": private, "token": self.token}
        return f"https://huggingface.co/{name}"

    def create_commit(self, name, operations, *, commit_message):
        assert name == Hub.made["name"] and commit_message
        Hub.files = {}
        for operation in operations:
            with operation.as_file() as file:
                Hub.files[operation.path_in_repo] = file.read()


class Closed(Hub):
    def create_repo(self, name, **_):
        raise huggingface_hub.errors.HFValidationError("wrong name.\nmore")


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.made, Hub.files = {}, {}


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def front_matter(card):
    _, head, text = card.decode().split("---\n", 2)
    return head, text


def test_a_loaded_model_goes_as_its_folder_holds_it(tmp_path):
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    made = build(tokenizer, llm=llm, lora=LoraSettings(r=2, alpha=4)).merge()
    folder = made.save_pretrained(tmp_path / "model", card="# Mine\n\nrun THIS_FOLDER\n")
    wanted = contents(folder)
    (folder / "optimizer.pt").write_bytes(b"not to be sent")
    model = llava_rad.load(str(folder), device="cpu")
    assert model.push_to_hub("me/cxr", private=False, token="t") == "https://huggingface.co/me/cxr"
    assert Hub.made == {"name": "me/cxr", "private": False, "token": "t"}
    head, text = front_matter(Hub.files.pop("README.md"))
    assert "library_name: llava-rad" in head and text.strip() == "# Mine\n\nrun me/cxr"
    del wanted["README.md"]
    assert Hub.files == wanted

    (folder / "processor.json").write_text("{}")
    with pytest.raises(WeightsError, match="has changed"):
        model.push_to_hub("me/cxr")


def test_a_new_model_is_saved_first_and_loads_again(tmp_path):
    tokenizer = byte_level_tokenizer()
    made = build(tokenizer, lora=LoraSettings(r=2, alpha=4)).merge()
    made.push_to_hub("me/cxr")
    assert Hub.made["private"] is True
    for name, content in Hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    again = ReportModel.from_pretrained(tmp_path)
    assert again.config.encoder.fingerprint == made.config.encoder.fingerprint


def test_a_base_llm_that_nobody_else_has_is_refused():
    with pytest.raises(ModelError, match="merge"):
        build(byte_level_tokenizer(), lora=LoraSettings(r=2, alpha=4)).push_to_hub("me/cxr")
    assert Hub.made == {}


def test_what_the_hub_refuses_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Closed)
    model = build(byte_level_tokenizer(), lora=LoraSettings(r=2, alpha=4)).merge()
    with pytest.raises(WeightsError, match=r"^me/cxr: the hub did not take it \(wrong name\)"):
        model.push_to_hub("me/cxr")

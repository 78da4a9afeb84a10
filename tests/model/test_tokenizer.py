"""Tokenizers as their files describe them."""

import json

import pytest
from helpers.llm_families import FAMILIES, folder_of, write_tokenizer
from helpers.tiny_models import byte_level_tokenizer, sentencepiece_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_rad.ending import Terminated
from llava_rad.errors import ModelError, WeightsError
from llava_rad.model.tokenizer import (
    adds_bos,
    control_tokens,
    decode,
    prove_tokenizer,
    read_tokenizer,
    tokenise,
    with_pad_token,
)

TEXTS = ["No acute disease.", "  two  blanks", "\nNew line", "<s> mark </s>", "T12, 2.5 cm – naïve"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("declared", [None, "LlamaTokenizerFast"])
def test_every_id_is_that_of_the_tokenizers_own_file(name, declared, tmp_path):
    family = FAMILIES[name]
    roles = dict(family.roles)
    if declared:
        roles["tokenizer_class"] = declared
    write_tokenizer(tmp_path, family.kind, list(family.special), **roles)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found = read_tokenizer(tmp_path)
    found.save_pretrained(tmp_path / "saved")
    again = read_tokenizer(tmp_path / "saved")
    texts = [*TEXTS, *(f"{mark}\nNo acute disease{mark}  so" for mark in family.special)]
    for text in texts:
        wanted = raw.encode(text).ids
        assert found(text)["input_ids"] == wanted
        assert again(text)["input_ids"] == wanted
    assert control_tokens(again) == control_tokens(found)


def test_text_after_an_image_keeps_its_two_tokens(tmp_path):
    """As llava-hf's tokenizer: transformers' own class for Llama drops the blank and the break."""
    special = ["<s>", "</s>", "<image>"]
    write_tokenizer(
        tmp_path, "prepend", special, bos="<s>", eos="</s>", tokenizer_class="LlamaTokenizer"
    )
    tokenizer = read_tokenizer(tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("<image>\nNo")["input_ids"])
    assert tokens[:3] == ["<image>", "▁", "<0x0A>"]


def test_a_sentencepiece_file_alone_is_read(tmp_path):
    import shutil

    sentencepiece_tokenizer(tmp_path, legacy=False)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "tokenizer.model", alone)
    facts = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "bos_token": "<s>"}
    (alone / "tokenizer_config.json").write_text(json.dumps(facts))
    tokenizer = read_tokenizer(alone)
    assert adds_bos(tokenizer)
    prove_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("Phi-3", "<|end|>"),
        ("Gemma 3", "<end_of_turn>"),
        ("Llama 3", "<|start_header_id|>"),
        ("Qwen2.5", "<tool_call>"),
        ("Qwen3", "</think>"),
    ],
)
def test_marks_that_have_no_role_are_control_tokens_too(name, hidden):
    tokenizer = read_tokenizer(folder_of(name))
    assert control_tokens(tokenizer)[hidden] == tokenizer.convert_tokens_to_ids(hidden)


def test_blank_added_tokens_steer_nothing():
    assert "\n\n" not in control_tokens(read_tokenizer(folder_of("Gemma 3")))


def test_a_pad_token_is_found_or_its_want_is_an_error(tmp_path):
    special = ["<|a|>", "<|b|>"]
    write_tokenizer(tmp_path, "byte-level", special, eos="<|b|>")
    assert read_tokenizer(tmp_path).pad_token == "<|b|>"
    write_tokenizer(tmp_path, "byte-level", special)
    with pytest.raises(ModelError, match=r"neither a pad nor an unknown nor an end token.*eos_to"):
        read_tokenizer(tmp_path)
    assert with_pad_token(byte_level_tokenizer()).pad_token == "<|endoftext|>"


def test_a_tokenizer_that_changes_text_is_refused(tmp_path):
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[UNK]"]))
    core.save(str(tmp_path / "tokenizer.json"))
    facts = {"unk_token": "[UNK]", "eos_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"changes text: 'No acute cardiopulmonary process\.'"):
        prove_tokenizer(read_tokenizer(tmp_path))


def test_blanks_before_punctuation_are_kept(tmp_path):
    write_tokenizer(tmp_path, "byte-level", ["<e>"], eos="<e>", clean_up_tokenization_spaces=True)
    tokenizer = read_tokenizer(tmp_path)
    text = "T 12 . No n't ,"
    assert decode(tokenizer, tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"eos_token": 7}'),
    ],
)
def test_damaged_files_are_one_error_with_the_folders_name(tmp_path, file, content):
    write_tokenizer(tmp_path, "byte-level", ["<e>"], eos="<e>")
    (tmp_path / file).write_text(content)
    with pytest.raises(WeightsError, match=tmp_path.name) as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_has_no_tokenizer(tmp_path):
    with pytest.raises(WeightsError, match="tokenizer cannot be loaded"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_that_fails_at_its_first_text_is_damaged(tmp_path):
    byte_level_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": "many"}))
    with pytest.raises(WeightsError, match="the tokenizer cannot be loaded") as caught:
        read_tokenizer(tmp_path)
    assert caught.value.kind == "no_tokenizer"


def test_a_panic_of_the_tokenizers_library_is_an_error(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """As the library's: no Exception."""

        __module__ = "pyo3_runtime"

    def panic(self, text, **options):
        raise PanicException("index out of bounds: the len is 4 but the index is 4")

    byte_level_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", panic)
    with pytest.raises(WeightsError, match="index out of bounds"):
        read_tokenizer(tmp_path)


def test_a_signal_while_it_is_read_is_no_damage(tmp_path, monkeypatch):
    def stopped(self, text, **options):
        raise Terminated

    byte_level_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", stopped)
    with pytest.raises(Terminated):
        read_tokenizer(tmp_path)


def test_texts_are_tokenised_as_transformers_does_it():
    tokenizer = byte_level_tokenizer()
    for text in ("", " Nodule of 3-4 mm.\n", "é中 no </s> effusion", "a" * 500):
        expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokenise(tokenizer, text) == (expected["input_ids"], expected["offset_mapping"])


def test_a_text_that_was_tokenised_before_is_seen_anew_by_another_vocabulary():
    tokenizer, text = byte_level_tokenizer(), "No <finding> here."
    before, _ = tokenise(tokenizer, text)
    tokenise(tokenizer, text)[0].clear()  # the caller's own list
    assert tokenise(tokenizer, text)[0] == before
    tokenizer.add_tokens(["<finding>"])
    assert tokenizer.convert_tokens_to_ids("<finding>") in tokenise(tokenizer, text)[0]

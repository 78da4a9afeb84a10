import pytest
from helpers.tiny_models import byte_level_tokenizer, sentencepiece_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(scope="session", params=["byte-level", "legacy", "not-legacy"])
def any_tokenizer(request, tmp_path_factory):
    if request.param == "byte-level":
        return byte_level_tokenizer()
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("spm"), legacy=request.param == "legacy")

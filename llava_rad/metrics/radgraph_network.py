"""The network of a RadGraph archive, built from numbers and label names alone.

The package ``radgraph`` builds whatever class its archive's ``config.json`` names, any function of
any module among them, so a foreign archive could run commands. Here the configuration is read
against the one architecture that RadGraph has (DyGIE++ on a BERT): every value that the network
takes is a number or a name from a known list, and anything besides is refused. The weights are
read as tensors only.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.errors import WeightsError
from llava_rad.file_keys import sha256
from llava_rad.hub import download
from llava_rad.readers import read_json
from llava_rad.weight_files import read_state_dict

CONFIG, WEIGHTS, VOCABULARY = "config.json", "weights.th", "vocabulary"

_COUNT, _NUMBER = (int,), (int, float)
_TASKS = ("ner", "relation", "coref", "events")
_WEIGHTS_OF_TASKS = {task: _NUMBER for task in _TASKS}

# What the network takes of the configuration: a tuple of types, a tuple of allowed words, or a
# mapping of such. Keys are all needed but those that end in "?".
_MODEL: dict[str, Any] = {
    "modules": {
        "coref": {
            "spans_per_word": _NUMBER,
            "max_antecedents": _COUNT,
            "coref_prop?": _COUNT,
            "coref_prop_dropout_f?": _NUMBER,
        },
        "ner": {},
        "relation": {"spans_per_word": _NUMBER, "positive_label_weight?": _NUMBER},
        "events": {
            "trigger_spans_per_word": _NUMBER,
            "argument_spans_per_word": _NUMBER,
            "loss_weights": {"trigger": _NUMBER, "arguments": _NUMBER},
        },
    },
    "feature_size": _COUNT,
    "max_span_width": _COUNT,
    "target_task": _TASKS,
    "feedforward_params": {"num_layers": _COUNT, "hidden_dims": _COUNT, "dropout": _NUMBER},
    "loss_weights": _WEIGHTS_OF_TASKS,
}
# Keys of the model that are not handed on: its class is known, its start is overwritten by the
# weights, and what is shown in training does not matter.
_LEFT_OUT = ("type", "embedder", "initializer", "module_initializer", "display_metrics")
_BERT_TYPE = "pretrained_transformer_mismatched"
_BERT_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class RadGraphConfig:
    """What of an archive's configuration the network is made of.

    Attributes:
        model: sizes of DyGIE++ and its modules.
        max_span_width: of the reader.
        bert: hub id of the BERT that the archive names, or its folder in the archive.
        max_length: of a text in word pieces.
    """

    model: dict[str, Any]
    max_span_width: int
    bert: str
    max_length: int


def read_config(folder: Path) -> RadGraphConfig:
    """Read and check the ``config.json`` of an unpacked archive.

    Raises:
        WeightsError: it cannot be read, a value is missing, or there is one that RadGraph's
            architecture does not have (kind ``foreign_config``).
    """
    path = folder / CONFIG
    remedy = "Unpack the archive again"
    values = read_json(path, error=WeightsError, expect=dict, remedy=remedy, kind="layout")
    reader = _part(values, "dataset_reader", path)
    model = _part(values, "model", path)
    if model.get("type", "dygie") != "dygie":
        raise _foreign(path, f"model.type is {model['type']!r}", "dygie")
    berts = (
        _bert(_part(reader, "token_indexers", path), path),
        _bert(_part(_part(model, "embedder", path), "token_embedders", path), path),
    )
    if berts[0] != berts[1]:
        raise _foreign(
            path, f"two BERTs are named, {berts[0][0]!r} and {berts[1][0]!r}", "one and the same"
        )
    [(bert, max_length), _] = berts
    inside = folder / bert
    if inside.is_dir() and inside.resolve().is_relative_to(folder.resolve()):
        bert = str(inside)
    kept = {key: value for key, value in model.items() if key not in _LEFT_OUT}
    return RadGraphConfig(
        model=_checked(kept, _MODEL, "model", path),
        max_span_width=_checked(reader.get("max_span_width"), _COUNT, "max_span_width", path),
        bert=bert,
        max_length=max_length,
    )


def archive_hash(folder: Path) -> str:
    """SHA-256 of all that annotations depend on: weights, configuration, label names, BERT."""
    config = read_config(folder)
    digest = hashlib.sha256(sha256(folder / WEIGHTS).encode())
    digest.update(json.dumps(vars(config) | {"bert": ""}, sort_keys=True).encode())
    files = _vocabulary_files(folder)
    if Path(config.bert).is_dir():
        files += [file for name in _BERT_FILES if (file := Path(config.bert) / name).is_file()]
    else:
        digest.update(config.bert.encode())
    for file in files:
        digest.update(f"\n{file.name} {sha256(file)}".encode())
    return digest.hexdigest()


def build_network(folder: Path, model_type: str, device: str | None) -> Any:
    """The package's ``RadGraph`` with the archive's weights.

    Args:
        folder: of an unpacked archive.
        model_type: ``radgraph`` or ``radgraph-xl``; texts are cut into tokens by it.
        device: ``"cpu"`` or ``"cuda"``; CUDA where there is one by default.

    Raises:
        WeightsError: the configuration is foreign, the BERT that it names is not here, or the
            weights are damaged, pickled objects, or of another network.
    """
    read_config(folder)  # a foreign one is refused first
    state = read_state_dict(folder / WEIGHTS)
    network = untrained_network(folder, model_type, device)
    try:
        network.model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"the weights do not fit the configuration ({str(error).splitlines()[0]})",
            where=folder / WEIGHTS,
            remedy="Use weights, configuration and vocabulary of one archive",
            kind="layout",
        ) from error
    return network


def untrained_network(folder: Path, model_type: str, device: str | None) -> Any:
    """The package's ``RadGraph`` with random weights; arguments as of :func:`build_network`.

    Raises:
        WeightsError: the configuration is foreign, or the BERT that it names is not here.
    """
    import radgraph
    import torch
    from dotmap import DotMap
    from radgraph.allennlp.data import Vocabulary, token_indexers
    from radgraph.allennlp.modules import text_field_embedders, token_embedders
    from radgraph.dygie.data.dataset_readers.dygie import DyGIEReader
    from radgraph.dygie.models import dygie

    config = read_config(folder)
    lend_bert(config.bert)
    bert = {"model_name": config.bert, "max_length": config.max_length}
    with tempfile.TemporaryDirectory() as copy:
        # The package puts a lock file into the folder that it reads.
        for file in _vocabulary_files(folder):
            shutil.copy(file, copy)
        vocabulary = Vocabulary.from_files(copy)
    indexer = token_indexers.PretrainedTransformerMismatchedIndexer(**bert, cache_dir=None)
    embedder = token_embedders.PretrainedTransformerMismatchedEmbedder(**bert)
    network: Any = radgraph.RadGraph.__new__(radgraph.RadGraph)
    torch.nn.Module.__init__(network)
    network.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network.batch_size, network.model_type = 1, model_type
    network.reader = DyGIEReader(
        max_span_width=config.max_span_width, token_indexers={"bert": indexer}
    )
    model = dygie.DyGIE(
        vocab=vocabulary,
        embedder=text_field_embedders.BasicTextFieldEmbedder({"bert": embedder}),
        **DotMap(config.model),
    )
    network.model = model.to(network.device).eval()
    return network


def lend_bert(name: str) -> None:
    """Give the package configuration and tokenizer of a BERT, read without code of its own.

    The tokenizer gets the two methods that transformers 5 dropped.

    Raises:
        WeightsError: they are not on this machine.
    """
    from radgraph.allennlp.common import cached_transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        folder = name if Path(name).is_dir() else download(name, _BERT_FILES, what="BERT")
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        config = AutoConfig.from_pretrained(folder, **options)
        bert = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # connection, file and configuration errors of many classes
        text = error.what if isinstance(error, WeightsError) else str(error)
        lines = text.strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"the RadGraph model needs configuration and vocabulary of the BERT it names, which "
            f"cannot be loaded: {lines[0].rstrip('.')}",
            where=name,
            remedy=f"Fetch them with: hf download {name} config.json vocab.txt "
            "tokenizer_config.json",
            kind="missing",
        ) from error
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    lent = {
        "encode_plus": tokenizer.__call__,
        "build_inputs_with_special_tokens": lambda ids: [first, *ids, last],
    }
    for method, function in lent.items():
        setattr(tokenizer, method, function)
    fast: dict[str, Any] = {"use_fast": True}
    for options in (fast, {"cache_dir": None, **fast}):
        cached_transformers._tokenizer_cache[(name, frozenset(options.items()))] = tokenizer
    cached_transformers._model_cache[cached_transformers.TransformerSpec(name)] = bert


def _bert(values: Mapping[str, Any], path: Path) -> tuple[str, int]:
    if set(values) != {"bert"}:
        raise _foreign(path, f"texts are embedded by {', '.join(map(str, values))}", "bert alone")
    bert = dict(_part(values, "bert", path))
    if bert.pop("type", _BERT_TYPE) != _BERT_TYPE:
        raise _foreign(path, "a BERT of another type is named", _BERT_TYPE)
    wanted = {"model_name": (str,), "max_length": _COUNT}
    found = _checked(bert, wanted, "bert", path)
    return found["model_name"], found["max_length"]


def _part(values: object, name: str, path: Path) -> Mapping[str, Any]:
    found = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(found, Mapping):
        raise _foreign(path, f"{name} is missing", "RadGraph's own")
    return found


def _checked(value: Any, wanted: Any, name: str, path: Path) -> Any:
    """The value, if it is of the types, words or keys that are wanted."""
    if isinstance(wanted, dict):
        if not isinstance(value, Mapping):
            raise _foreign(path, f"{name} is {value!r}", "a mapping")
        known = {key.removesuffix("?"): inner for key, inner in wanted.items()}
        strange = sorted(set(map(str, value)) - set(known))
        missing = sorted(k for k in wanted if not k.endswith("?") and k not in value)
        if strange or missing:
            said = f"unknown in {name}: {', '.join(strange)}" if strange else ""
            said += f"{'; ' * bool(said)}missing in {name}: {', '.join(missing)}" * bool(missing)
            raise _foreign(path, said, ", ".join(known) or "nothing")
        return {k: _checked(v, known[k], f"{name}.{k}", path) for k, v in value.items()}
    if isinstance(wanted[0], str):
        if value not in wanted:
            raise _foreign(path, f"{name} is {value!r}", ", ".join(wanted))
        return value
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise _foreign(path, f"{name} is {value!r}", wanted[-1].__name__)
    return value


def _vocabulary_files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / VOCABULARY).glob("*.txt") if file.is_file())


def _foreign(path: Path, what: str, allowed: str) -> WeightsError:
    return WeightsError(
        f"this is not the configuration of a RadGraph network: {what}",
        where=path,
        remedy=f"Known there: {allowed}. A configuration can name code to run, so nothing else is "
        "built; use an archive of StanfordAIMI/RRG_scorers",
        kind="foreign_config",
    )

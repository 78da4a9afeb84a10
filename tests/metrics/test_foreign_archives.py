"""Nothing that a RadGraph archive, a CheXbert file or a BERT brings along is run."""

import io
import json
import os
import tarfile

import pytest
import torch
from helpers.radgraph_archives import published_config

from llava_rad.errors import WeightsError
from llava_rad.metrics import BertScorer, RadGraphAnnotator
from llava_rad.metrics.chexbert import CheXbert
from llava_rad.metrics.radgraph_network import archive_hash, build_network, read_config


class Touch:
    """Leaves a file behind when it is unpickled without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mknod, (str(self.file),)


@pytest.fixture
def mark(tmp_path):
    """The file that a planted command would leave behind."""
    return tmp_path / "ran"


@pytest.fixture(autouse=True)
def nothing_asks(monkeypatch):
    """Whoever asks a person whether to run code fails the test."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to trust code"))


@pytest.fixture
def archive(tmp_path, bert_folder):
    """An unpacked archive without weights; a function of changes to its configuration."""
    folder = tmp_path / "model"
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
    (folder / "vocabulary" / "radgraph__ner_labels.txt").write_text("\nOBS-DP\nOBS-DA\n")
    (folder / "vocabulary" / "radgraph__relation_labels.txt").write_text("\nmodify\n")
    torch.save({}, folder / "weights.th")

    def make(change=None):
        config = published_config(str(bert_folder))
        if change:
            change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def popen(mark):
    return {"type": "subprocess.Popen", "args": ["touch", str(mark)]}


# Places of the configuration where the package builds what is named there.
PLACES = {
    "a tagger": lambda c, x: c["model"]["modules"].update(ner=x),
    "a part of coreference": lambda c, x: c["model"]["modules"]["coref"].update(x),
    "an event's loss": lambda c, x: c["model"]["modules"]["events"].update(loss_weights=x),
    "a regulariser of the model": lambda c, x: c["model"].update(regularizer=x),
    "a regulariser of a module": lambda c, x: c["model"]["modules"]["relation"].update(
        regularizer={"regexes": [["x", x]]}
    ),
    "a pretrained module": lambda c, x: c["model"]["modules"]["ner"].update(_pretrained=x),
    "the model": lambda c, x: c["model"].update(x),
    "the embedder": lambda c, x: c["model"]["embedder"]["token_embedders"].update(bert=x),
    "a second embedder": lambda c, x: c["model"]["embedder"]["token_embedders"].update(other=x),
    "the indexer": lambda c, x: c["dataset_reader"]["token_indexers"].update(bert=x),
    "weights of the BERT": lambda c, x: c["model"]["embedder"]["token_embedders"]["bert"].update(
        override_weights_file="http://127.0.0.1/weights"
    ),
    "a layer's size": lambda c, x: c["model"]["feedforward_params"].update(hidden_dims=x),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_that_names_a_command_is_refused(archive, mark, tmp_path, place):
    folder = archive(lambda config: PLACES[place](config, popen(mark)))
    with pytest.raises(WeightsError, match="not the configuration of a RadGraph") as caught:
        RadGraphAnnotator("radgraph", weights=folder, cache=tmp_path / "cache")
    assert caught.value.kind == "foreign_config"
    with pytest.raises(WeightsError):
        build_network(folder, "radgraph", "cpu")
    assert not mark.exists()


@pytest.mark.parametrize("place", ["initializer", "module_initializer", "display_metrics"])
def test_what_the_network_is_not_built_from_is_not_built(archive, mark, place):
    folder = archive(lambda c: c["model"].update({place: popen(mark)}))
    assert place not in read_config(folder).model
    with pytest.raises(WeightsError, match="do not fit the configuration"):
        build_network(folder, "radgraph", "cpu")  # its weights are empty
    assert not mark.exists()


def test_a_value_of_another_type_is_named(archive):
    folder = archive(lambda c: c["model"].update(feature_size="20; touch ran"))
    with pytest.raises(WeightsError, match=r"model\.feature_size is '20; touch ran'.*int"):
        read_config(folder)
    folder = archive(lambda c: c["model"]["modules"].pop("events"))
    with pytest.raises(WeightsError, match=r"missing in model\.modules: events"):
        read_config(folder)


def test_pickled_weights_are_refused(archive, mark):
    folder = archive()
    torch.save({"a": Touch(mark)}, folder / "weights.th")
    with pytest.raises(WeightsError, match="can run code"):
        build_network(folder, "radgraph", "cpu")
    assert not mark.exists()


def test_the_bert_of_an_archive_brings_no_code(archive, bert_folder, mark):
    folder = archive(lambda c: None)
    inside = folder / "bert"
    inside.mkdir()
    for file in bert_folder.iterdir():
        (inside / file.name).write_bytes(file.read_bytes())
    (inside / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((inside / "config.json").read_text())
    config |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"},
    }
    (inside / "config.json").write_text(json.dumps(config))
    values = json.loads((folder / "config.json").read_text())
    for part in (
        values["dataset_reader"]["token_indexers"],
        values["model"]["embedder"]["token_embedders"],
    ):
        part["bert"]["model_name"] = "bert"
    (folder / "config.json").write_text(json.dumps(values))
    assert read_config(folder).bert == str(inside)
    with pytest.raises(WeightsError, match="the BERT it names, which cannot be loaded"):
        build_network(folder, "radgraph", "cpu")
    assert not mark.exists()


def test_the_bert_that_is_missing_is_the_one_that_the_archive_names(archive, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def rename(config, indexer, embedder):
        config["dataset_reader"]["token_indexers"]["bert"]["model_name"] = indexer
        config["model"]["embedder"]["token_embedders"]["bert"]["model_name"] = embedder

    folder = archive(lambda c: rename(c, "someone/own-bert", "someone/own-bert"))
    with pytest.raises(WeightsError, match=r"hf download someone/own-bert config\.json"):
        build_network(folder, "radgraph", "cpu")
    folder = archive(lambda c: rename(c, "someone/own-bert", "someone/another"))
    with pytest.raises(WeightsError, match="two BERTs are named"):
        read_config(folder)


def test_annotations_belong_to_configuration_and_label_names_too(archive, tmp_path):
    def key():
        annotator = RadGraphAnnotator("radgraph", weights=archive.folder, cache=tmp_path)
        return annotator._key("no effusion")

    archive.folder = archive()
    first = key()
    assert key() == first
    archive(lambda c: c["model"]["modules"]["relation"].update(spans_per_word=0.4))
    second = key()
    labels = archive.folder / "vocabulary" / "radgraph__ner_labels.txt"
    labels.write_text("\nOBS-DA\nOBS-DP\n")
    third = key()
    archive(lambda c: c.update(trainer="another"))  # nothing of it is read
    labels.write_text("\nOBS-DP\nOBS-DA\n")
    assert len({first, second, third}) == 3 and key() == first
    assert archive_hash(archive.folder) != first


def add(tar, name, content=b"", **values):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in values.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


MEMBERS = {
    "a path outside": lambda tar, mark: add(tar, f"../../{mark.name}", b"x"),
    "an absolute path": lambda tar, mark: add(tar, str(mark), b"x"),
    "a link to a file outside": lambda tar, mark: add(
        tar, "weights.th", type=tarfile.SYMTYPE, linkname="/etc/hostname"
    ),
    "a file through a linked folder": lambda tar, mark: (
        add(tar, "vocabulary", type=tarfile.SYMTYPE, linkname=str(mark.parent)),
        add(tar, f"vocabulary/{mark.name}", b"x"),
    ),
    "a hard link": lambda tar, mark: add(
        tar, "weights.th", type=tarfile.LNKTYPE, linkname="/etc/hostname"
    ),
    "a device": lambda tar, mark: add(tar, "weights.th", type=tarfile.CHRTYPE),
}


@pytest.mark.parametrize("member", MEMBERS)
def test_an_archive_writes_nothing_outside_and_links_nothing(tmp_path, mark, member):
    file = tmp_path / "radgraph.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        MEMBERS[member](tar, mark)
    with pytest.raises(WeightsError, match=r"cannot be unpacked|holds no weights\.th"):
        RadGraphAnnotator("radgraph", weights=file, cache=tmp_path / "a" / "cache")
    assert not mark.exists()
    assert not list(tmp_path.rglob("weights.th"))


def test_a_cut_archive_is_named(tmp_path):
    file = tmp_path / "radgraph.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        add(tar, "weights.th", os.urandom(100_000))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        RadGraphAnnotator("radgraph", weights=file, cache=tmp_path / "cache")


def test_a_pickled_chexbert_is_refused(word_vocabulary, tmp_path, mark):
    torch.save({"model_state_dict": {"a": Touch(mark)}}, tmp_path / "chexbert.pth")
    with pytest.raises(WeightsError, match="can run code"):
        CheXbert.load(tmp_path, vocabulary=word_vocabulary)
    assert not mark.exists()


@pytest.mark.parametrize("plant", ["auto_map", "pickle"])
def test_a_bertscore_model_brings_no_code(bert_folder, tmp_path, mark, plant):
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in bert_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    if plant == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save({"a": Touch(mark)}, folder / "pytorch_model.bin")
    else:
        config = json.loads((folder / "config.json").read_text())
        maps = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", None]}
        config |= {"model_type": "unheard_of", "auto_map": maps}
        (folder / "config.json").write_text(json.dumps(config))
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps({**tokenizer, "tokenizer_class": "Evil", "auto_map": maps})
        )
    with pytest.raises(WeightsError) as caught:
        BertScorer.load(str(folder), layer=1, device="cpu")
    assert caught.value.kind == ("foreign_code" if plant == "auto_map" else "damaged_weights")
    assert not mark.exists()

import json
import random
import tarfile
from pathlib import Path

import pytest
import torch
from helpers.radgraph_archives import published_config

from llava_rad.errors import MetricError, WeightsError
from llava_rad.evaluation.evaluation import entities_by_fate
from llava_rad.metrics import HEADLINES, RadGraphAnnotator, radgraph_f1, score_annotations
from llava_rad.metrics.radgraph import CASINGS, LEVELS

LABELS = ("ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U")
RELATIONS = ("modify", "located_at", "suggestive_of")


def entity(tokens, label="OBS-DP", relations=(), start=0):
    end = start + len(tokens.split()) - 1
    return {
        "tokens": tokens,
        "label": label,
        "start_ix": start,
        "end_ix": end,
        "relations": [list(r) for r in relations],
    }


def annotation(*entities):
    return {
        "text": " ".join(e["tokens"] for e in entities),
        "entities": {str(i): e for i, e in enumerate(entities, start=1)},
    }


def random_annotation(generator):
    count = generator.randint(0, 5)
    entities = []
    for _ in range(count):
        word = generator.choice(["Large", "large", "effusion", "Left", "left", "heart"])
        relations = [
            (generator.choice(RELATIONS), str(generator.randint(1, count)))
            for _ in range(generator.choice([0, 0, 1, 2]))
        ]
        entities.append(entity(word, generator.choice(LABELS), relations))
    return annotation(*entities)


def test_capitals_change_no_score_in_lowercase():
    pair = [annotation(entity("Large"))], [annotation(entity("large"))]
    lowercase = score_annotations(*pair).values
    published = score_annotations(*pair, casing="published")
    for level in LEVELS:
        assert lowercase[f"{level}/f1"] == 1.0
        assert published.values[f"{level}/f1"] == 0.0
    assert published.facts["casing"] == "published"
    assert CASINGS == ("lowercase", "published")


@pytest.mark.parametrize("level", LEVELS)
def test_published_is_the_package_reward(level):
    from radgraph.rewards import compute_reward

    generator = random.Random(0)
    predicted = [random_annotation(generator) for _ in range(200)]
    expected = [random_annotation(generator) for _ in range(200)]
    result = score_annotations(predicted, expected, casing="published")
    rewards = [compute_reward(p, e, level) for p, e in zip(predicted, expected, strict=True)]
    assert list(result.per_pair[f"{level}/f1"]) == pytest.approx(rewards, abs=1e-12)
    assert result.values[f"{level}/f1"] == pytest.approx(sum(rewards) / len(rewards))


def test_precision_recall_and_levels_by_hand():
    predicted = annotation(
        entity("left", "ANAT-DP"), entity("effusion", relations=[("modify", "1")])
    )
    expected = annotation(
        entity("left", "ANAT-DP"),
        entity("effusion", relations=[("located_at", "1")]),
        entity("opacity"),
    )
    values = score_annotations([predicted], [expected]).values
    assert values["simple/precision"] == 1.0
    assert values["simple/recall"] == pytest.approx(2 / 3)
    assert values["partial/recall"] == pytest.approx(2 / 3)
    assert values["complete/precision"] == pytest.approx(1 / 2)  # another relation
    assert values["type/ANAT-DP/f1"] == 1.0
    assert values["type/OBS-DP/recall"] == 0.5
    assert values["type/OBS-DP/support"] == 2


def test_a_report_without_entities_scores_zero():
    nothing = annotation()
    pairs = [nothing, annotation(entity("a"))], [nothing, nothing]
    assert score_annotations(*pairs).values["simple/f1"] == 0.0


def test_matched_missed_and_invented_entities():
    details = score_annotations(
        [annotation(entity("Large"), entity("mass", start=1))],
        [annotation(entity("large"), entity("effusion", start=1))],
    ).details[0]
    assert entities_by_fate(details) == {
        "matched": ["Large (OBS-DP)"],
        "missed": ["effusion (OBS-DP)"],
        "invented": ["mass (OBS-DP)"],
    }


def test_unknown_choices_are_refused(tmp_path):
    with pytest.raises(MetricError, match="lowercase, published"):
        score_annotations([], [], casing="upper")
    with pytest.raises(MetricError, match="radgraph, radgraph-xl"):
        RadGraphAnnotator("radgraph-xxl", cache=tmp_path)


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(
        WeightsError, match=r"hf download StanfordAIMI/RRG_scorers radgraph-xl\.tar\.gz"
    ):
        RadGraphAnnotator(cache=tmp_path)


@pytest.fixture(scope="module")
def radgraph_folder(tmp_path_factory, bert_folder) -> Path:
    """A random network in the layout of the published archive."""
    from llava_rad.metrics.radgraph_network import untrained_network

    folder = tmp_path_factory.mktemp("radgraph") / "radgraph"
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(published_config(str(bert_folder))))
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
    for name, labels in (("ner", LABELS), ("relation", RELATIONS)):
        path = folder / "vocabulary" / f"radgraph__{name}_labels.txt"
        path.write_text("\n" + "\n".join(labels) + "\n")
    network = untrained_network(folder, "radgraph", "cpu").model
    torch.manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(0.5 * torch.randn_like(value))
    torch.save(network.state_dict(), folder / "weights.th")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Document")
def test_batched_annotations_are_the_packages(radgraph_folder, texts, tmp_path, capfd):
    import radgraph

    annotator = RadGraphAnnotator(
        "radgraph", weights=radgraph_folder, cache=tmp_path, device="cpu", batch_size=8
    )
    texts = [*texts, *(text.replace("clear", "large") for text in texts[:20])]
    found = annotator.annotate(texts)
    assert capfd.readouterr().out == ""
    # The package as it comes, which builds what the configuration names.
    package = radgraph.RadGraph(
        model_type="radgraph", model_cache_dir=str(radgraph_folder.parent), cuda=-1
    )
    alone = package([text if text.strip() else "no" for text in texts])
    relations = 0
    for i, text in enumerate(texts):
        expected = alone[str(i)]["entities"] if text.strip() else {}
        assert found[i]["entities"] == expected
        relations += sum(len(e["relations"]) for e in expected.values())
    assert relations > 100


@pytest.mark.slow
def test_annotations_are_kept_on_disk(radgraph_folder, texts, tmp_path, monkeypatch):
    options = {"weights": radgraph_folder, "cache": tmp_path, "device": "cpu"}
    first = RadGraphAnnotator("radgraph", **options).annotate(texts)
    again = RadGraphAnnotator("radgraph", **options)
    monkeypatch.setattr(again, "_load", lambda: pytest.fail("the network was loaded again"))
    assert again.annotate(texts[::-1]) == first[::-1]


@pytest.mark.slow
def test_equal_texts_are_annotated_once(radgraph_folder, tmp_path):
    annotator = RadGraphAnnotator("radgraph", weights=radgraph_folder, cache=tmp_path, device="cpu")
    done = []
    annotator.annotate(["no effusion"] * 5 + ["", " "], progress=lambda *now: done.append(now))
    assert done == [(1, 1)]
    predictions = ["no effusion", "", "no effusion"]
    result = radgraph_f1(predictions, ["no effusion", "no effusion", ""], annotator=annotator)
    assert list(result.per_pair["simple/f1"]) == [1.0, 0.0, 0.0]


@pytest.mark.slow
def test_an_archive_is_unpacked_once(radgraph_folder, tmp_path):
    archive = tmp_path / "radgraph.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for item in radgraph_folder.iterdir():
            tar.add(item, arcname=item.name)
    annotator = RadGraphAnnotator(
        "radgraph", weights=archive, cache=tmp_path / "cache", device="cpu"
    )
    assert annotator.folder.is_relative_to(tmp_path / "cache")
    plain = RadGraphAnnotator("radgraph", weights=radgraph_folder, cache=tmp_path, device="cpu")
    assert annotator.annotate(["large effusion"]) == plain.annotate(["large effusion"])


def test_a_damaged_archive_and_cache_are_named(tmp_path):
    (tmp_path / "radgraph.tar.gz").write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="unpacked"):
        RadGraphAnnotator("radgraph", weights=tmp_path, cache=tmp_path / "cache")

    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.th").write_bytes(b"")
    (model / "config.json").write_text(json.dumps(published_config("bert")))
    (tmp_path / "radgraph.sqlite").write_bytes(b"not a database, certainly not" * 100)
    annotator = RadGraphAnnotator("radgraph", weights=model, cache=tmp_path)
    with pytest.raises(MetricError, match="cache"):
        annotator.annotate(["large effusion"])


def test_the_published_value_has_the_key_that_people_look_for():
    generator = random.Random(5)
    first, second = ([random_annotation(generator) for _ in range(20)] for _ in range(2))
    result = score_annotations(first, second)
    assert result.values["radgraph_f1"] == result.values["partial/f1"] > 0
    assert list(result.per_pair["radgraph_f1"]) == list(result.per_pair["partial/f1"])
    assert result.facts["radgraph_f1"] == "level partial"
    assert HEADLINES["radgraph"][0] == "radgraph_f1"

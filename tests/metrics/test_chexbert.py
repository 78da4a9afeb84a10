import numpy as np
import pytest
import torch

from llava_rad.errors import MetricError, WeightsError
from llava_rad.metrics import CheXbert, chexbert
from llava_rad.metrics.chexbert import _read_checkpoint
from llava_rad.metrics.first_token_bert import FirstTokenBert
from llava_rad.observations import Mention

LONG = "the heart is normal in size " * 100 + "large opacity " * 200  # 1,000 word pieces


@pytest.mark.parametrize("side", ["refs", "hyps"])
def test_raw_labels_are_those_of_f1chexbert(parity_labeler, metric_parity, side):
    labels = parity_labeler.label(metric_parity[side])
    expected = metric_parity["chexbert"][f"raw_argmax_{side}"]
    np.testing.assert_array_equal(labels.mentions, expected)
    assert not labels.too_long.any()


def test_a_long_report_is_cut_as_published(parity_labeler, metric_parity):
    labels = parity_labeler.label([metric_parity["chexbert"]["long_report"]])
    np.testing.assert_array_equal(labels.mentions[0], metric_parity["chexbert"]["raw_argmax_long"])
    assert labels.too_long[0]


def test_f1_is_that_of_f1chexbert(parity_labeler, metric_parity):
    values = chexbert(metric_parity["hyps"], metric_parity["refs"], labeler=parity_labeler).values
    expected = metric_parity["expected"]["f1chexbert"]
    for group in ("14", "5"):
        for name, row in expected[f"report_{group}"].items():
            for measure, number in row.items():
                measure = "f1" if measure == "f1-score" else measure
                key = f"uncertain_positive/class/{name}/{measure}"
                if name.endswith(" avg"):
                    key = f"uncertain_positive/{group}/{name.removesuffix(' avg')}/{measure}"
                if key in values:
                    assert values[key] == pytest.approx(number, abs=1e-6), key
                else:
                    assert measure == "support"
    exact = values["uncertain_positive/5/exact_match"]
    assert exact == pytest.approx(expected["accuracy"], abs=1e-6)


def test_batches_change_nothing(labeler, chexbert_file, word_vocabulary, texts):
    together = labeler.label(texts, batch_tokens=256)
    other = CheXbert.load(chexbert_file, vocabulary=word_vocabulary, device="cpu")
    for i, text in enumerate(texts):
        alone = other.label([text])
        np.testing.assert_array_equal(together.mentions[i], alone.mentions[0])
        np.testing.assert_allclose(together.embeddings[i], alone.embeddings[0], atol=1e-5)


def test_labels_depend_on_the_text(labeler, texts):
    assert len(np.unique(labeler.label(texts).mentions, axis=0)) > 5


def test_equal_reports_go_through_the_network_once(labeler):
    seen = []
    forward = labeler.encoder.forward
    labeler.encoder.forward = lambda texts: seen.append(len(texts)) or forward(texts)
    labeler.label(["no effusion", "clear", "no effusion", "no effusion"])
    labeler.label(["clear", "no effusion"])
    assert sum(seen) == 2


def test_the_first_token_is_that_of_transformers(chexbert_file):
    bert = _read_checkpoint(chexbert_file, None)[0].eval()
    draw = torch.Generator().manual_seed(0)
    lengths = [2, 2, 3, 9, 9, 9, 5]  # texts of one length beside each other and apart
    texts = [torch.randint(5, 30, (n,), generator=draw).tolist() for n in lengths]
    with torch.inference_mode():
        found = FirstTokenBert(bert)(texts)
        alone = [bert(torch.tensor([text])).last_hidden_state[0, 0] for text in texts]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_windows_see_the_end_of_a_long_report(labeler):
    cut = labeler.label([LONG])
    windows = labeler.label([LONG], windows=True)
    assert cut.too_long[0]
    end = labeler.label(["large opacity " * 200])
    # What the last window states is stated, whatever the first says.
    stated = end.mentions[0, :13] == Mention.POSITIVE
    assert (windows.mentions[0, :13][stated] == Mention.POSITIVE).all()
    assert not np.allclose(windows.embeddings, cut.embeddings)


def test_long_reports_are_counted_and_reported(labeler):
    result = chexbert([LONG, "clear"], ["clear", "clear"], labeler=labeler)
    assert result.facts["texts_over_512_word_pieces"] == 1
    assert any("cut at 512" in note for note in result.notes)
    windows = chexbert([LONG, "clear"], ["clear", "clear"], labeler=labeler, windows=True)
    assert any("windows" in note for note in windows.notes)


def test_a_short_report_is_the_same_in_windows(labeler, texts):
    plain, windows = labeler.label(texts), labeler.label(texts, windows=True)
    np.testing.assert_array_equal(plain.mentions, windows.mentions)


def test_embedding_similarity(labeler):
    result = chexbert(
        ["no effusion", "clear", ""], ["no effusion", "large", "clear"], labeler=labeler
    )
    similarity = result.per_pair["embedding_similarity"]
    assert similarity[0] == pytest.approx(1.0, abs=1e-6)
    a, b = labeler.label(["clear", "large"]).embeddings
    assert similarity[1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert similarity[2] == 0.0
    assert result.values["embedding_similarity"] == pytest.approx(similarity.mean())


def test_the_checkpoint_is_named_by_its_hash(labeler, chexbert_file):
    import hashlib

    result = chexbert(["clear"], ["clear"], labeler=labeler)
    expected = hashlib.sha256(chexbert_file.read_bytes()).hexdigest()
    assert result.facts["checkpoint_sha256"] == expected


def test_missing_weights_name_the_command(word_vocabulary):
    with pytest.raises(
        WeightsError, match=r"hf download StanfordAIMI/RRG_scorers chexbert\.pth"
    ) as e:
        CheXbert.load(vocabulary=word_vocabulary)
    assert e.value.kind == "missing"


def test_a_missing_vocabulary_names_the_command(chexbert_file):
    with pytest.raises(WeightsError, match=r"hf download google-bert/bert-base-uncased vocab\.txt"):
        CheXbert.load(chexbert_file)


def test_the_vocabulary_beside_the_weights_is_used(chexbert_file, word_vocabulary, tmp_path):
    (tmp_path / "chexbert.pth").write_bytes(chexbert_file.read_bytes())
    (tmp_path / "vocab.txt").write_bytes(word_vocabulary.read_bytes())
    assert CheXbert.load(tmp_path, device="cpu").label(["clear"]).mentions.shape == (1, 14)


@pytest.mark.parametrize("damage", ["not_torch", "other_keys", "a_head_less"])
def test_other_files_are_refused(damage, chexbert_file, word_vocabulary, tmp_path):
    path = tmp_path / "chexbert.pth"
    if damage == "not_torch":
        path.write_bytes(b"no such thing")
    else:
        state = torch.load(chexbert_file, weights_only=True)["model_state_dict"]
        if damage == "a_head_less":
            state = {key: v for key, v in state.items() if "linear_heads.13" not in key}
        else:
            state = {"weight": torch.zeros(1)}
        torch.save({"model_state_dict": state}, path)
    with pytest.raises(WeightsError) as caught:
        CheXbert.load(path, vocabulary=word_vocabulary)
    assert caught.value.kind == "layout"


def test_bfloat16_is_close_and_named(chexbert_file, word_vocabulary, labeler, texts):
    half = CheXbert.load(
        chexbert_file, vocabulary=word_vocabulary, precision="bfloat16", device="cpu"
    )
    same = half.label(texts).mentions == labeler.label(texts).mentions
    assert same.mean() > 0.9
    assert chexbert(["clear"], ["clear"], labeler=half).facts["precision"] == "bfloat16"
    with pytest.raises(MetricError, match="float32, bfloat16"):
        CheXbert.load(chexbert_file, vocabulary=word_vocabulary, precision="int4")


def test_what_is_known_is_found_again_however_it_came(labeler, texts):
    together = labeler.label(texts)
    labeler.forget(0)
    for part in (texts[:1], texts[1:3], texts[3:4], texts[4:]):
        labeler.label(part)
    apart = labeler.label(texts[::-1])
    np.testing.assert_array_equal(apart.mentions[::-1], together.mentions)
    np.testing.assert_allclose(apart.embeddings[::-1], together.embeddings, atol=1e-5)

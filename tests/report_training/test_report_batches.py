"""Samples and batches: what is shown, what is learnt, and who gets it."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import byte_level_tokenizer, tiny_encoder

from llava_rad.data import load_manifest
from llava_rad.data.targets import select_targets
from llava_rad.errors import DataError
from llava_rad.model import IGNORE, IMAGE_TOKEN, ReportProcessor
from llava_rad.report_training import (
    DropoutConfig,
    ReportSamples,
    TrainingBatches,
    collate,
    samples,
)
from llava_rad.report_training.batches import batch_order, count_tokens
from llava_rad.report_training.samples import restricted_template
from llava_rad.report_training.studies import Split
from llava_rad.runs import BatchOrder

ROLES = ["current_frontal", "current_lateral", "prior_frontal"]


@pytest.fixture(scope="module")
def processor():
    tokenizer = byte_level_tokenizer()
    template = restricted_template(tokenizer, ROLES, ["indication", "prior_report"], {})
    return ReportProcessor(tokenizer, template, tiny_encoder().preprocessing, 16)


@pytest.fixture(scope="module")
def split(parts):
    studies = [s for s in load_manifest(parts / "studies.jsonl") if s.split == "train"]
    chosen = select_targets(studies, section="findings", fallback=None)
    return Split(chosen.studies, chosen.texts, [1.0] * len(chosen.studies))


def samples_of(split, processor, **dropout):
    return ReportSamples(split, processor, 512, DropoutConfig(**dropout), (0, 0))


def test_exactly_the_report_and_its_end_are_learnt(split, processor):
    data = samples_of(split, processor)
    for index in range(len(data)):
        sample = data.sample(index)
        ids, labels = np.array(sample.tokens.input_ids), np.array(sample.tokens.labels)
        learnt = labels != IGNORE
        assert (ids[learnt] == labels[learnt]).all()
        first = int(learnt.argmax())
        assert learnt[first:].all()
        assert labels[-1] == processor.end_id
        text = processor.tokenizer.decode(labels[first:-1].tolist())
        assert text == split.texts[index]
        assert (ids == IMAGE_TOKEN).sum() == 16 * len(sample.paths)


def test_padding_is_neither_seen_nor_learnt(split, processor):
    data = samples_of(split, processor)
    drawn = [data.sample(index) for index in (0, 1, 4)]
    batch = collate(drawn, data, None)
    lengths = [len(s.tokens.input_ids) for s in drawn]
    assert len(set(lengths)) == 3
    assert batch.attention_mask.sum(1).tolist() == lengths
    assert (batch.labels[batch.attention_mask == 0] == IGNORE).all()
    assert batch.paths == [path for sample in drawn for path in sample.paths]
    targets = sum(label != IGNORE for s in drawn for label in s.tokens.labels)
    assert batch.target_tokens == targets
    assert count_tokens([batch, batch]) == [
        2 * targets,
        2 * sum(lengths),
        2 * 3 * max(lengths),
    ]


def test_dropout_leaves_parts_out_as_often_as_told(split, processor):
    data = samples_of(split, processor, current_lateral=0.3, indication=1.0)
    index = next(i for i, s in enumerate(split.studies) if len(s.images) == 2 and s.indication)
    whole, lateral = data.sample(index), split.studies[index].images[1].path
    assert lateral in whole.paths
    shown = 0
    for draw in range(300):
        sample = data.sample(index, draw)
        shown += lateral in sample.paths
        assert "cough and fever" not in processor.tokenizer.decode(
            [i for i in sample.tokens.input_ids if i >= 0]
        )
        assert sample.tokens.input_ids == data.sample(index, draw).tokens.input_ids
        assert data.length(index, draw) == pytest.approx(len(sample.tokens.input_ids), abs=2)
        prompt = sample.tokens.labels.count(IGNORE)
        assert data.prompt_length(index, draw) == pytest.approx(prompt, abs=2)
    assert 0.62 < shown / 300 < 0.78


@pytest.mark.parametrize("max_length", [512, 130])
def test_samples_are_tokenised_once_and_are_what_the_processor_makes(
    split, processor, monkeypatch, max_length
):
    shares = {"indication": 0.4, "current_lateral": 0.4, "prior_frontal": 0.4}
    data = ReportSamples(split, processor, max_length, DropoutConfig(**shares), (0, 0))
    again = ReportSamples(split, processor, max_length, DropoutConfig(**shares), (0, 0), workers=1)
    real, asked = processor.encode, []
    seen = set()
    for index, draw in ((i, d) for i in range(len(data)) for d in (None, *range(8))):
        left_out = tuple(data._left_out_in(draw))
        request = samples._without(data.request(index).request, left_out)
        expected = real(request, data.text(index), max_length=max_length)
        monkeypatch.setattr(processor, "encode", lambda *a, **k: asked.append(a) or real(*a, **k))
        sample = data.sample(index, draw).tokens
        monkeypatch.undo()
        assert (sample.input_ids, sample.labels) == (expected.input_ids, expected.labels)
        missing = sum(
            samples._without(data.request(index).request, [p]) != data.request(index).request
            for p in left_out
        )
        assert len(asked) == (missing > 1)
        asked.clear()
        seen.add(missing)
        assert again.sample(index, draw).tokens == data.sample(index, draw).tokens
    assert seen >= {0, 1, 2}


def test_work_is_shared_among_workers_in_chunks(split, processor, monkeypatch):
    whole = samples_of(split, processor, indication=0.5)
    monkeypatch.setattr(samples, "_CHUNK", 4)
    made = ReportSamples(split, processor, 512, DropoutConfig(indication=0.5), (0, 0), workers=2)
    for index in range(len(whole)):
        assert made.sample(index, 3) == whole.sample(index, 3)
    assert made.lengths.tolist() == whole.lengths.tolist()


def test_a_long_report_is_cut_at_its_end_and_counted(split, processor):
    whole = samples_of(split, processor)
    longest = int(whole.lengths.argmax())
    limit = int(whole.lengths.max()) - 5
    data = ReportSamples(split, processor, limit, None)
    sample = data.sample(data._ids.index(whole.study_id(longest)))
    assert len(sample.tokens.input_ids) == limit
    assert sample.tokens.input_ids == whole.sample(longest).tokens.input_ids[:limit]
    assert whole.study_id(longest) in data.truncated
    cut = "1 report" if len(data.truncated) == 1 else f"{len(data.truncated)} reports"
    assert f"{cut} cut at {limit}" in data.summary()


def test_no_room_for_any_report_is_an_error_that_counts(split, processor):
    with pytest.raises(DataError, match=f"none of {len(split)} studies.*no_target"):
        ReportSamples(split, processor, 20, None)


def test_a_batch_without_a_target_names_its_studies(split, processor):
    data = samples_of(split, processor)
    drawn = [data.sample(0), data.sample(1)]
    for sample in drawn:
        sample.tokens.labels[:] = [IGNORE] * len(sample.tokens.labels)
    with pytest.raises(DataError, match="s0, s1: the batch has no token to learn"):
        collate(drawn, data, None)


def test_batches_are_of_like_length_and_of_like_prompts_where_reports_are_rewarded(
    split, processor
):
    data = samples_of(split, processor)

    def lengths(stage, length):
        order = batch_order(data, stage, 8, 4)
        return [[length(*pair) for pair in order.batch(step)] for step in range(4)]

    def descending(rows):
        return all(row == sorted(row, reverse=True) for row in rows)

    for stage in ("align", "finetune"):
        assert descending(lengths(stage, data.length))
    assert descending(lengths("reinforce", data.prompt_length))
    assert not descending(lengths("reinforce", data.length))


def test_processes_and_accumulation_share_the_same_batch(split, processor):
    data = samples_of(split, processor, indication=0.5)
    order = BatchOrder(data.weights, data.length, 8, 6, (0, 0))

    def shown(micro, accumulate, processes):
        steps = []
        for step in range(6):
            batches = [
                TrainingBatches(data, order, micro, accumulate, rank, processes, None)[
                    step * accumulate + place
                ]
                for place in range(accumulate)
                for rank in range(processes)
            ]
            rows = [
                (study, ids[mask.bool()].tolist())
                for b in batches
                for study, ids, mask in zip(b.study_ids, b.input_ids, b.attention_mask, strict=True)
            ]
            steps.append(rows)
        return steps

    whole = shown(8, 1, 1)
    assert [len(rows) for rows in whole] == [8] * 6
    assert shown(2, 4, 1) == shown(4, 1, 2) == shown(2, 2, 2) == shown(1, 2, 4) == whole


def test_images_are_read_where_nothing_is_cached(split, processor, tmp_path):
    data = samples_of(split, processor)
    batch = collate([data.sample(0), data.sample(1)], data, processor.preprocessing)
    assert batch.pixel_values.shape == (len(batch.paths), 3, 56, 56)
    inputs = batch.model_inputs(torch.device("cpu"))
    assert sorted(inputs) == [
        *("attention_mask", "image_places", "input_ids", "labels"),
        *("pads_right", "pixel_values", "target_columns"),
    ]


def test_an_unreadable_image_names_study_and_file(split, processor, tmp_path):
    data = samples_of(split, processor)
    sample = data.sample(0)
    broken = tmp_path / "gone.png"
    for damage in ("missing", "damaged"):
        if damage == "damaged":
            broken.write_bytes(b"\x89PNG\r\n\x1a\n")
        one = type(sample)("s0", sample.request, sample.tokens, (str(broken), *sample.paths[1:]))
        with pytest.raises(DataError, match=r"gone\.png: an image of study s0 cannot be read"):
            collate([one], data, processor.preprocessing)

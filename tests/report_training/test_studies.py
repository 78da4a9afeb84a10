"""Which texts a run learns is what its settings say."""

import pytest

from llava_rad.config import load_config
from llava_rad.data import Study, save_manifest
from llava_rad.report_training import ReportTrainingConfig
from llava_rad.report_training.studies import load_studies

STUDIES = [
    Study("a", "a", split="train", findings="Stable heart. No effusion.", impression="Normal."),
    Study(
        "b",
        "b",
        split="train",
        findings="Clear. Normal.",
        extra={"joint_section": "findings and impression"},
    ),
    Study("c", "c", split="train", findings="No mass.", extra={"addenda": "Told Dr. B."}),
    Study("d", "d", split="validation", findings="Unchanged tube. Clear lungs.", impression="Ok."),
]


@pytest.mark.parametrize(
    ("overrides", "learnt", "validated", "left_out"),
    [
        (
            [],
            ["Stable heart. No effusion.", "No mass."],
            ["Unchanged tube. Clear lungs."],
            {"findings_and_impression_in_one": ["b"]},
        ),
        (
            [
                "data.use_joint_sections=true",
                "data.drop_prior_comparisons=true",
                "data.leave_out_addenda=true",
            ],
            ["No effusion.", "Clear. Normal."],
            ["Clear lungs."],
            {"has_addendum": ["c"]},
        ),
        (
            ["data.section=findings_and_impression"],
            ["Stable heart. No effusion. Normal.", "Clear. Normal."],
            ["Unchanged tube. Clear lungs. Ok."],
            {"no_findings_and_impression": ["c"]},
        ),
    ],
)
def test_the_texts_that_are_learnt(tmp_path, overrides, learnt, validated, left_out):
    save_manifest(STUDIES, tmp_path / "m.jsonl")
    given = ["output=x", f"data.sources=[{{path: {tmp_path}/m.jsonl}}]", *overrides]
    config = load_config(ReportTrainingConfig, None, given)
    studies = load_studies(config.data)
    assert (studies.train.texts, studies.validation.texts) == (learnt, validated)
    assert studies.left_out == left_out
    for override in overrides:
        key = override.removeprefix("data.").split("=")[0]
        assert key in config.facts()["data"]

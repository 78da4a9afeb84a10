"""Settings that differ are named with both values."""

from llava_rad.runs.settings import differences


def test_each_difference_has_its_name_and_both_values():
    before = {
        "seed": 0,
        "finetune": {"epochs": 2, "betas": [0.9, 0.99], "lr": 1e-4},
        "data": {"sources": [{"path": "a", "weight": 1.0}, {"path": "b", "weight": 1.0}]},
        "lora": {"r": 4},
        "old": None,
    }
    now = {
        "seed": 0,
        "finetune": {"epochs": 3, "betas": (0.9, 0.999), "lr": 1e-4},
        "data": {"sources": [{"path": "a", "weight": 1.0}, {"path": "c", "weight": 0.5}]},
        "lora": None,
        "new": True,
    }
    assert differences(before, now) == [
        "finetune.epochs: 2 in the run, 3 now",
        "finetune.betas: [0.9, 0.99] in the run, [0.9, 0.999] now",
        "data.sources.1.path: b in the run, c now",
        "data.sources.1.weight: 1.0 in the run, 0.5 now",
        'lora: {"r": 4} in the run, null now',
        "old: null in the run, not set now",
        "new: not set in the run, true now",
    ]


def test_equal_settings_do_not_differ():
    assert differences({"a": [1, 2], "b": 1.0}, {"a": (1, 2), "b": 1}) == []
    assert differences({"a": 1}, {"a": True}) == ["a: 1 in the run, true now"]
    assert differences([{"a": 1}], [{"a": 1}, {"a": 2}]) != []

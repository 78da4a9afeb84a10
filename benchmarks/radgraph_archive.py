"""A RadGraph archive in the published layout, for measuring without the published weights."""

import json
from pathlib import Path

LABELS = {
    "ner": ("ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"),
    "relation": ("modify", "located_at", "suggestive_of"),
}


def write_archive(folder: Path, bert: Path) -> None:
    """Configuration and label names; the weights are the caller's.

    Args:
        folder: made.
        bert: folder of configuration and vocabulary of a BERT.
    """
    (folder / "vocabulary").mkdir(parents=True)
    reads = {
        "bert": {
            "type": "pretrained_transformer_mismatched",
            "model_name": str(bert),
            "max_length": 512,
        }
    }
    spans = {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.3}
    # The sizes of DyGIE++'s own configurations.
    config = {
        "dataset_reader": {"max_span_width": 8, "token_indexers": reads},
        "model": {
            "embedder": {"token_embedders": reads},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {**spans, "loss_weights": {"trigger": 0, "arguments": 0}},
            },
            "feature_size": 20,
            "max_span_width": 8,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": 150, "dropout": 0.4},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = folder / "vocabulary"
    (words / "non_padded_namespaces.txt").write_text("*labels\n*tags\n", encoding="utf-8")
    for name, labels in LABELS.items():
        text = "\n".join(["", *labels, ""])
        (words / f"radgraph__{name}_labels.txt").write_text(text, encoding="utf-8")

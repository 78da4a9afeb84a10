"""The configuration of a RadGraph archive in small."""

import copy


def published_config(bert_folder):
    """The configuration of an archive: sizes are small, the rest is DyGIE++'s."""
    bert = {
        "bert": {
            "type": "pretrained_transformer_mismatched",
            "model_name": bert_folder,
            "max_length": 512,
        }
    }
    span = {"type": "xavier_normal"}
    return {
        "dataset_reader": {
            "type": "dygie",
            "max_span_width": 3,
            "token_indexers": copy.deepcopy(bert),
        },
        "train_data_path": "somewhere",
        "trainer": {"optimizer": {"type": "adamw"}},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": bert},
            "initializer": {"regexes": [["_span_width_embedding.weight", span]]},
            "module_initializer": {"regexes": [[".*weight", span]]},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 10, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.3,
                    "loss_weights": {"trigger": 0, "arguments": 0},
                },
            },
            "feature_size": 4,
            "max_span_width": 3,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 1, "hidden_dims": 8, "dropout": 0.1},
            "loss_weights": {"ner": 1.0, "relation": 1.0, "coref": 0.0, "events": 0.0},
        },
    }

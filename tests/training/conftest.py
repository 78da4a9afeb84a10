"""A small run: a tiny encoder and LLM in folders, pictures, and a manifest."""

from functools import partial

import pytest
from helpers.program_runs import run_program
from helpers.training_parts import make_parts
from helpers.training_runs import PROGRAM


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Folder with ``encoder``, ``llm`` and ``studies.jsonl``."""
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def settings(parts):
    """Overrides for a run of a few steps in float32."""
    stage = "{epochs: 2, lr: 3e-3, batch_size: 4, micro_batch: 2}"
    return [
        f"encoder={parts / 'encoder'}",
        f"llm={parts / 'llm'}",
        f"data.sources=[{{path: {parts / 'studies.jsonl'}}}]",
        f"data.cache_folder={parts / 'features'}",
        "data.workers=0",  # each would import as much as the program; tests of them say how many
        "data.images=[current_frontal, current_lateral, prior_frontal]",
        "data.context=[indication, prior_report]",
        "data.dropout={indication: 0.3, current_lateral: 0.3, prior_frontal: 0.3}",
        "lora={r: 4, alpha: 8, dropout: 0.1}",
        "adapter.pool=2",
        f"align={stage}",
        f"finetune={stage}",
        "precision=fp32",
        "log_steps=1",
        "checkpoint_steps=3",
    ]


@pytest.fixture(scope="session")
def train_in(settings):
    """Runs the program to the end.

    ``train_in(folder, name, *overrides) -> the run's folder, what it said``
    """

    def run(folder, name, *overrides, fails=False, **options):
        (folder / "empty.yaml").touch()
        succeeded, said = run_program(
            PROGRAM,
            [
                str(folder / "empty.yaml"),
                f"output={folder / name}",
                *settings,
                *overrides,
            ],
            folder / "log",
            **options,
        )
        assert succeeded != fails, said
        return folder / name, said

    return run


@pytest.fixture
def train(train_in, tmp_path):
    """As ``train_in``, in the test's own folder."""
    (tmp_path / "empty.yaml").touch()
    return partial(train_in, tmp_path)

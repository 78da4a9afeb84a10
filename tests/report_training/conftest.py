import pytest
from helpers.training_parts import make_parts


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Folder with ``encoder``, ``llm`` and ``studies.jsonl``."""
    return make_parts(tmp_path_factory.mktemp("parts"))

"""The data set that the tests of this folder share."""

import pytest
from helpers.probing_data import write_probing_data


@pytest.fixture(scope="session")
def probing_data(tmp_path_factory):
    return write_probing_data(tmp_path_factory.mktemp("probing-data"))

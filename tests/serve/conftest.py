"""askesis-tiny, and a gateway on it that all tests share which change nothing of it."""

import pytest
from serve_running import running

import askesis
from askesis.serve import Settings


@pytest.fixture(scope="session")
def bundle():
    return askesis.load("askesis-tiny")


@pytest.fixture(scope="session")
def server(bundle, tmp_path_factory):
    """Shared by all tests that change nothing of it."""
    folder = tmp_path_factory.mktemp("record")
    with running(bundle, settings=Settings(record=folder)) as one:
        one.folder = folder
        yield one

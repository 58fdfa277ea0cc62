"""Run folders for tests that read and draw what a run has left."""

import pytest

from tests.tiny.runs import write_run


@pytest.fixture(scope="session")
def make_run():
    """Writes a finished run into a folder of the test's own; gives its metrics."""
    return write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """One finished run, for tests that only read."""
    folder = tmp_path_factory.mktemp("runs") / "shapes" / "run"
    write_run(folder)
    return folder

"""Claims about what a console shows that can't show everything, and one whose reader has gone."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from edje.analysis.table import metrics_table
from edje.config.terminal import ConsoleHandler, draw_bars_rarely, use_plain_characters
from edje.tasks.console import show

ROOT = Path(__file__).parents[2]
RECALL = {"recall@1": {"value": 97.7, "low": 96.4, "high": 98.8}}
METRICS = {
    "dataset": "shapes",
    "split": "test",
    "num_images": 500,
    "t2i": {row: RECALL for row in ("first_stage", "reranked", "ceiling", "gain")},
}


def written_in_ascii(write: Callable[[], None], path: Path) -> str:
    """What a file holds that stood for the standard output, and can't hold everything."""
    with path.open("w", encoding="ascii") as stream, redirect_stdout(stream):
        use_plain_characters()
        write()
    return path.read_text("ascii")


def test_a_table_is_shown_in_plain_characters(tmp_path: Path) -> None:
    lines = written_in_ascii(lambda: show(metrics_table(METRICS)), tmp_path / "file").splitlines()
    assert "shapes test - 500 images" in lines[0]
    assert any(line.startswith("text > image") for line in lines)
    assert any("97.7 [96.4, 98.8]" in line for line in lines)


def test_letters_lose_their_accents_and_what_has_no_lookalike_is_marked(tmp_path: Path) -> None:
    text = "a café … at 3 × 4 → 図"
    assert written_in_ascii(lambda: print(text), tmp_path / "file") == "a cafe ... at 3 x 4 > ?\n"  # noqa: T201


def test_a_closed_pipe_ends_neither_the_log_nor_a_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        handler = ConsoleHandler(stream)
        for _ in range(2):
            handler.handle(logging.LogRecord("edje", logging.INFO, "", 0, "said", (), None))
            show(metrics_table(METRICS))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_help_is_shown_in_any_encoding_and_to_a_reader_that_leaves(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = f"{sys.executable} run.py --help | head -n 2"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.decode(encoding).splitlines()) == 2


@pytest.mark.parametrize(
    ("is_watched", "given", "right"),
    [(False, None, "30"), (True, None, None), (False, "5", "5")],
    ids=["file", "terminal", "chosen"],
)
def test_bars_are_drawn_rarely_unless_somebody_watches(monkeypatch, is_watched, given, right):
    stream = io.StringIO()
    stream.isatty = lambda: is_watched
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(os, "environ", {} if given is None else {"TQDM_MININTERVAL": given})
    draw_bars_rarely()
    assert os.environ.get("TQDM_MININTERVAL") == right


def test_the_command_line_draws_bars_rarely_in_a_file(tmp_path: Path) -> None:
    script = """
import io, sys
from contextlib import suppress
from edje import cli
sys.argv = ["edje", "--help"]
with suppress(SystemExit):
    cli.main()
from tqdm import tqdm
sys.stderr.write(str(tqdm([], file=io.StringIO()).mininterval))
"""
    environment = {name: value for name, value in os.environ.items() if "TQDM" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stderr == "30.0"

"""What a sweep's end says beside its table."""

import logging
from pathlib import Path

import pytest
import yaml

from edje.tasks.sweep_report import report
from tests.tiny.runs import write_run


@pytest.mark.parametrize(("key", "warns"), [("adapter.num_tokens", True), ("seed", False)])
def test_a_best_on_the_reported_split_is_warned_of_once(
    key: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        write_run(tmp_path / str(number), seed=number)
        (tmp_path / str(number) / "overrides.yaml").write_text(yaml.safe_dump([f"{key}={number}"]))
    with caplog.at_level(logging.WARNING, "edje"):
        report(tmp_path)
    assert [text[:32] for text in caplog.messages] == ["best is by R@1 on split=test, so"] * warns

"""Claims about changing the configuration of a run that is resumed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from edje.config.resumption import steps_trained

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


def trained(command: Command, tasks: Calls, steps: int, *, finished: bool) -> Path:
    """A run folder of `trainer.max_steps=20` after so many of them."""
    assert command("seed=3", "trainer.max_steps=20") == 0
    _, folder = tasks.pop()
    (folder / "checkpoints").mkdir()
    torch.save({"global_step": steps}, folder / "checkpoints" / "last.ckpt")
    if finished:
        torch.save({}, folder / "checkpoints" / "model.ckpt")
    return folder


def test_the_steps_of_a_run_are_read_from_its_last_checkpoint(
    command: Command, tasks: Calls
) -> None:
    folder = trained(command, tasks, 7, finished=False)
    assert steps_trained(folder) == 7
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert steps_trained(folder) is None


@pytest.mark.parametrize(
    ("finished", "changes", "said"),
    [
        (
            True,
            ["trainer.max_steps=8"],
            "trainer.max_steps=8: this run has already trained 20 steps",
        ),
        (
            False,
            ["trainer.max_steps=8"],
            "trainer.max_steps=8: this run has already trained 12 steps",
        ),
        (True, ["optim.lr=0.2"], "optim.lr=0.2: the training of this run is finished"),
        (True, ["seed=4"], "seed=4: the training of this run is finished"),
        (True, ["objective.recovery.weight=2"], "Train on with trainer.max_steps above 20"),
        (False, ["adapter.num_tokens=8"], "this run's weights were made with adapter.num_tokens=4"),
        (True, ["trainer.max_steps=30", "adapter.num_tokens=8"], "start a new run with it"),
        (
            False,
            ["data.dev_images=30"],
            "this run trained with data.dev_images=0, so it has",
        ),
        (True, ["trainer.max_steps=30", "data.dev_images=30"], "images that dev would now hold"),
        (False, ["objective.recovery=null"], "objective.recovery: this run began with it"),
        (
            False,
            ["trainer.accumulate_grad_batches=2"],
            "trainer.accumulate_grad_batches=2: this run's weights were made with",
        ),
    ],
)
def test_what_would_train_nothing_is_refused_and_not_recorded(
    command: Command,
    tasks: Calls,
    capsys: pytest.CaptureFixture[str],
    finished: bool,
    changes: list[str],
    said: str,
) -> None:
    folder = trained(command, tasks, 20 if finished else 12, finished=finished)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    assert command(f"resume={folder}", *changes) == 1
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert not tasks


@pytest.mark.parametrize(
    ("finished", "changes"),
    [
        (True, ["trainer.max_steps=30"]),
        (True, ["trainer.max_steps=30", "optim.lr=0.2"]),
        (True, ["data.split=test"]),  # of the evaluation, which is made again
        (True, []),
        (False, ["optim.lr=0.2"]),  # from here on
        (False, ["trainer.max_steps=30"]),
        (False, ["backbone.checkpoint=moved.pt"]),
    ],
)
def test_what_is_acted_on_is_recorded_beside_what_was_before(
    command: Command, tasks: Calls, finished: bool, changes: list[str]
) -> None:
    folder = trained(command, tasks, 20 if finished else 12, finished=finished)
    assert command(f"resume={folder}", *changes) == 0
    assert tasks[0][1] == folder
    now, before = (folder / name for name in ("config.yaml", "config.1.yaml"))
    assert before.exists() == bool(changes)
    for change in changes:
        key, _, value = change.partition("=")
        assert str(OmegaConf.select(OmegaConf.load(now), key)) == value
        assert str(OmegaConf.select(OmegaConf.load(before), key)) != value

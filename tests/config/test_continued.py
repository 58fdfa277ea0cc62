from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from edje.config.saved import from_text, to_text
from edje.errors import EdjeError
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


@pytest.fixture
def trained(command: Command, tasks: Calls) -> Path:
    """A run folder as training leaves it."""
    arguments = ("name=photos", "data=photos", "data.root=pictures", "adapter.num_tokens=8")
    assert command(*arguments, "seed=3", "trainer.max_steps=7") == 0
    cfg, folder = tasks.pop()
    (folder / "checkpoints").mkdir()
    content = {"state_dict": {}, "edje": {}, "edje_config": to_text(cfg)}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


def test_saved_text_is_resolved_and_its_interpolations_come_back() -> None:
    cfg = OmegaConf.create({"a": {"b": "x", "c": "${.b}"}, "d": ["${a.b}", 1]})
    text = to_text(cfg)
    assert OmegaConf.to_container(OmegaConf.create(text)) == {
        "a": {"b": "x", "c": "x"},
        "d": ["x", 1],
    }
    again = from_text(text, "here")
    again.a.b = "y"
    assert (again.a.c, again.d[0]) == ("y", "y")


def test_a_text_that_is_no_configuration_is_refused() -> None:
    with pytest.raises(EdjeError, match="here"):
        from_text("[1, 2", "here")
    with pytest.raises(EdjeError, match="expected the configuration of a run"):
        from_text("- 1", "here")


@pytest.mark.parametrize("as_file", [False, True])
def test_evaluation_takes_the_model_and_data_of_the_checkpoint(
    command: Command, tasks: Calls, trained: Path, as_file: bool
) -> None:
    given = trained / "checkpoints" / "last.ckpt" if as_file else trained
    assert command("task=evaluate", f"checkpoint={given}", "data.split=test") == 0
    cfg, folder = tasks[-1]
    assert cfg.adapter.num_tokens == 8 and cfg.seed == 3 and cfg.name == "photos"
    assert (cfg.data.root, cfg.data.split) == ("pictures", "test")
    assert cfg.trainer.max_steps == 5, "the trainer is the present run's"
    assert cfg.task == "evaluate" and cfg.checkpoint == str(given)
    assert folder != trained and folder.parent.name == "photos"


def test_a_path_given_again_reaches_every_place_that_copies_it(
    command: Command, tasks: Calls, trained: Path
) -> None:
    assert command("task=evaluate", f"checkpoint={trained}", "backbone.checkpoint=there.pt") == 0
    assert tasks[-1][0].backbone.vision.checkpoint == "there.pt"


def test_evaluation_on_other_data_but_never_with_another_adapter(
    command: Command, tasks: Calls, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("task=evaluate", f"checkpoint={trained}", "data=drawn") == 0
    assert tasks[-1][0].data.root == "drawn"
    assert command("task=evaluate", f"checkpoint={trained}", "adapter=local") == 1
    assert "the checkpoint" in capsys.readouterr().err


def test_values_of_the_training_cannot_be_other_ones(
    command: Command, tasks: Calls, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("task=evaluate", f"checkpoint={trained}")
    for value in ("adapter.num_tokens=4", "optim.lr=1", "~adapter.num_tokens"):
        assert command(*given, value) == 1
        said = capsys.readouterr().err
        assert f"{value}: the checkpoint {trained} was trained with " in said
    assert command(*given, "adapter.num_tokens=8", "trainer.max_steps=3") == 0
    assert tasks[-1][0].adapter.num_tokens == 8
    assert command("-m", *given, "adapter.num_tokens=4,8", "hydra.sweep.dir=runs/two") == 1
    assert "runs/two/0 (adapter.num_tokens=4): adapter.num_tokens=4: the" in capsys.readouterr().err


def test_a_sweep_file_and_a_late_flag_may_stand_beside_a_checkpoint(
    command: Command, conf: Path, tasks: Calls, trained: Path
) -> None:
    text = "# @package _global_\nhydra: {sweeper: {params: {trainer.max_steps: '3,4'}}}"
    write_yaml(conf / "sweep" / "few.yaml", text)
    assert command("task=evaluate", f"checkpoint={trained}", "+sweep=few", "-m") == 0
    assert [cfg.trainer.max_steps for cfg, _ in tasks[-2:]] == [3, 4]


@pytest.mark.parametrize("arguments", [["data.roof=x"], ["data.split=tset"], ["sead=1"]])
def test_mistakes_beside_a_checkpoint_are_found(
    command: Command, trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert command("task=evaluate", f"checkpoint={trained}", *arguments) == 1
    assert "Did you mean" in capsys.readouterr().err


def test_checkpoints_can_be_swept(command: Command, tasks: Calls, trained: Path) -> None:
    other = trained / "checkpoints" / "last.ckpt"
    assert command("-m", "task=evaluate", f"checkpoint={trained},{other}") == 0
    assert [cfg.adapter.num_tokens for cfg, _ in tasks] == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=evaluate"], "task=evaluate needs a trained model"),
        (["task=evaluate", "checkpoint=nowhere"], "checkpoint=nowhere: found no checkpoint"),
        (["resume=nowhere"], "no such folder"),
        (["resume=."], "it has no config.yaml"),
    ],
)
def test_nothing_to_start_from(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_resumed_run_goes_on_in_its_folder_with_its_configuration(
    command: Command, tasks: Calls, trained: Path
) -> None:
    before = (trained / "overrides.yaml").read_text()
    given = f"../work/{trained.relative_to(Path.cwd())}/"
    assert command(f"resume={given}", "trainer.max_steps=9") == 0
    cfg, folder = tasks[-1]
    assert folder == trained
    assert (cfg.adapter.num_tokens, cfg.data.root, cfg.name) == (8, "pictures", "photos")
    assert cfg.trainer.max_steps == 9
    assert OmegaConf.load(trained / "config.yaml").trainer.max_steps == 9
    assert OmegaConf.load(trained / "config.1.yaml").trainer.max_steps == 7
    assert (trained / "overrides.yaml").read_text() == before
    assert "max_steps=9" in (trained / "overrides.1.yaml").read_text()


def test_a_resumed_run_keeps_its_options(
    command: Command, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"resume={trained}", "adapter=local") == 1
    assert "keeps the options" in capsys.readouterr().err
    assert command("-m", f"resume={trained}", "seed=1,2") == 1
    assert "one run is resumed at a time" in capsys.readouterr().err
    (trained / "checkpoints" / "last.ckpt").unlink()
    assert command(f"resume={trained}") == 1
    assert "nothing to continue from" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_that_says_only_part_is_evaluated_with_the_present_rest(
    command: Command, tasks: Calls, trained: Path, tmp_path: Path
) -> None:
    whole = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    kept = OmegaConf.masked_copy(OmegaConf.create(whole["edje_config"]), ["backbone", "storage"])
    kept.score = "sum"
    torch.save(whole | {"edje_config": OmegaConf.to_yaml(kept)}, tmp_path / "part.ckpt")
    assert command("task=evaluate", f"checkpoint={tmp_path / 'part.ckpt'}", "seed=4") == 0
    cfg = tasks[-1][0]
    assert (cfg.score, cfg.seed) == ("sum", 4) and cfg.name and cfg.data

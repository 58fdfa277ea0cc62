"""Claims about values on the command line: what is read as it stands, and what is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from edje.config.overrides import readable
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    "value", ["/a#b", "/a&b", "/图片/旅行", "/a b", "/é", "/a;b!c", "/a%b@c", "#1", "/a<b>", "/a~b"]
)
def test_a_value_with_odd_characters_arrives_as_it_was_written(
    command: Command, tasks: Calls, value: str
) -> None:
    assert command(f"data.root={value}", f"checkpoint={value}") == 0
    assert (tasks[0][0].data.root, tasks[0][0].checkpoint) == (value, value)


@pytest.mark.parametrize("key", ["data.root", "cache_dir", "checkpoint", "teacher", "miner"])
def test_the_home_folder_may_be_written_short_everywhere(
    command: Command, tasks: Calls, home: Path, key: str
) -> None:
    assert command(f"{key}=~/图 片") == 0
    assert OmegaConf.select(tasks[0][0], key) == f"{home}/图 片"
    assert not Path("~").exists()


def test_in_quotes_in_files_in_lists_and_for_the_run_folder_too(
    command: Command, tasks: Calls, home: Path, conf: Path
) -> None:
    text = "# @package _global_\ndata: {root: ~/photos}\njoint: {values: [1]}\n"
    write_yaml(conf / "experiment" / "mine.yaml", text)
    assert command("experiment=mine", "hydra.run.dir=~/runs", 'store="~/a, b"') == 0
    cfg, folder = tasks[0]
    assert (cfg.data.root, cfg.store) == (f"{home}/photos", f"{home}/a, b")
    assert folder == home / "runs"


def test_a_sweep_over_folders_reads_each(command: Command, tasks: Calls, home: Path) -> None:
    assert command("-m", "data.root=~/a,/b#c,/图") == 0
    assert [cfg.data.root for cfg, _ in tasks] == [f"{home}/a", "/b#c", "/图"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("data.root=/a=b", """'data.root=/a=b': = has a special meaning there. Put the value """
         """in quotes of its own: 'data.root="/a=b"'."""),
        ("data.root=/a (1)", """: ( has a special meaning there. Put the value in quotes of """
         """its own: 'data.root="/a (1)"'."""),
        ("data.root=/a'b", "'data.root=\"/a'\"'\"'b\"'."),
        ("data.root=/a,b", """data.root=/a,b gives several values: add -m to run a job for each, """
         """or write "data.root=[/a,b]" for a list, or 'data.root="/a,b"' for a text with a """
         """comma."""),
        ("hydra/launcher=submitit_slurm", "is not installed. pip install hydra-submitit-launcher."),
        ("hydra/sweeper=nevergrad", "is not installed. pip install hydra-nevergrad-sweeper."),
    ],
)  # fmt: skip
def test_a_value_that_could_mean_two_things_is_shown_in_quotes(
    command: Command,
    tasks: Calls,
    bare: None,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    said: str,
) -> None:
    assert command(argument) == 1
    assert said in capsys.readouterr().err
    assert not tasks


@pytest.mark.parametrize("value", ["/a=b", "/a (1)", "/a,b", "/[x]", "/a'b", '/a"b'])
def test_what_is_shown_works(command: Command, tasks: Calls, value: str) -> None:
    text = value.replace('"', '\\"')
    assert command(f'data.root="{text}"') == 0
    assert tasks[0][0].data.root == value


def test_what_hydra_reads_stays_as_it_is() -> None:
    arguments = ["-m", "--help", "seed=1,2", "a=[1,2]", "b={c: 1}", "~d", "+e='f g'", "h=sort(2,1)"]
    assert readable(arguments) == arguments

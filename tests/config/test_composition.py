"""Claims about Hydra's English, of which our messages are made: that it still says these words."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from edje.config import composition
from edje.config.composition import own_words
from edje.errors import EdjeError

Command = Callable[..., int]
PHRASES = {name for name, value in vars(composition).items() if isinstance(value, re.Pattern)}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "option.yaml").write_text("value: 1\n")
    (tmp_path / "run.yaml").write_text("defaults: [{group: option}]\n")
    return str(tmp_path)


SAID = {
    "NO_OPTION": (["group=null"], ()),
    "SEVERAL_VALUES": (["group.value=1,2"], ("group.value", "1,2")),
    "NO_SUCH_KEY": (["group.valeu=1"], ("group.valeu",)),
    "CHOSEN_TWICE": (["+group=option"], ()),
}


@pytest.mark.parametrize("name", SAID)
def test_hydra_says_this_of_a_command_line(name: str, folder: str) -> None:
    overrides, found = SAID[name]
    with initialize_config_dir(folder, version_base="1.3"), pytest.raises(Exception) as refused:
        compose("run", overrides)
    said = getattr(composition, name).search(" ".join(str(refused.value).split()))
    assert said is not None and said.groups() == found


def test_hydra_says_this_of_an_unknown_group_in_a_file(folder: str) -> None:
    text = "# @package _global_\ndefaults: [{override /gruop: option}]\n"
    (Path(folder) / "group" / "other.yaml").write_text(text)
    with initialize_config_dir(folder, version_base="1.3"), pytest.raises(Exception) as refused:
        compose("run", ["group=other"])
    said = composition.NO_SUCH_GROUP.search(" ".join(str(refused.value).split()))
    assert said is not None and said[1] == "gruop"


def test_hydra_says_this_of_an_interval_in_a_sweep(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "seed=interval(1,2)") == 1
    assert "an interval has no list of values" in capsys.readouterr().err


def test_hydra_says_this_of_a_constructor_that_fails() -> None:
    node = {"part": {"_target_": "edje.training.optimisation.Optimisation", "lr": 0.0}}
    with pytest.raises(InstantiationException) as refused:
        instantiate(node)
    said = composition.KEY_OF_FAILURE.search(str(refused.value))
    assert said is not None and said[1] == "part"
    assert str(own_words(refused.value)).startswith("optim.lr=0.0: expected more than 0")
    assert isinstance(own_words(refused.value), EdjeError)


def test_every_phrase_is_tried() -> None:
    assert {*SAID, "NO_SUCH_GROUP", "NO_INTERVALS", "KEY_OF_FAILURE"} == PHRASES

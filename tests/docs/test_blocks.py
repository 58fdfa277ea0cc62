"""Every block of code in the documents is of a known language, and what it names is there."""

import re
import tomllib
from collections.abc import Callable

import pytest
import yaml

from edje import registry
from edje.config.signatures import UNREAD, signature_of
from edje.config.value_types import describe, fits
from edje.index import index_commands
from edje.serving import serve_command
from tests.docs.blocks import BLOCKS, ROOT, Block, commands

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
OWN = {"group_means"}  # a reader's own part: tests/test_registry.py


def targets() -> set[str]:
    """What `make` can be asked for."""
    slow = re.findall(r"^SLOW := (.*?)#", MAKEFILE, re.MULTILINE)[0].split()
    named = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)
    return {*named, *(f"test-{name}" for name in slow)}


def check_make(words: list[str]) -> None:
    asked = {word for word in words if "=" not in word}
    assert asked and asked <= targets()
    assert all(f"$({word.partition('=')[0]})" in MAKEFILE for word in words if "=" in word)


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        found = re.fullmatch(r"(?:\.|edje)(?:\[([\w,]+)\])?", word)
        assert found and set((found[1] or "dev").split(",")) <= EXTRAS.keys(), word


def check_python(words: list[str]) -> None:
    """A run is composed by tests/config/test_commands.py."""
    assert (ROOT / words[0]).is_file() and words[0].endswith(".py")


def check_edje(words: list[str]) -> None:
    of_serving = words[0] == "serve"
    assert of_serving or words[0] in ("index", "search")
    parser = serve_command.parser() if of_serving else index_commands.parser()
    assert parser.parse_args(words)


def check_launcher(words: list[str]) -> None:
    """What is started is a run, which is composed by tests/config/test_commands.py."""
    assert "run.py" in words


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "edje": check_edje,
    "srun": check_launcher,
    "torchrun": check_launcher,
}


def check_shell(block: Block) -> None:
    found = commands(block.text)
    assert found
    for program, *words in found:
        assert program in CHECKS, f"nothing checks the program {program}"
        CHECKS[program](words)


def check_yaml(block: Block) -> None:
    """An option gives what the constructor of its `_target_` takes."""
    option = yaml.safe_load(block.text)
    target = option.pop("_target_")
    if target in OWN:
        return
    parameters = signature_of(target, imported=True).parameters
    for name, value in option.items():
        kind = parameters[name].annotation
        assert not parameters[name].wired and kind is not UNREAD
        assert fits(value, kind), f"{name}: {value!r} is not {describe(kind)}"


def check_toml(block: Block) -> None:
    """Entry points are of a group that is asked for parts."""
    points = tomllib.loads(block.text)["project"]["entry-points"]
    assert {group.removeprefix("edje.").removesuffix("s") for group in points} <= {*registry.OURS}
    assert {name for group in points.values() for name in group} <= OWN


LANGUAGES: dict[str, Callable[[Block], object]] = {
    "sh": check_shell,
    "yaml": check_yaml,
    "toml": check_toml,
    "python": lambda block: compile(block.text, str(block), "exec"),  # and run: test_python_blocks
    "text": lambda block: None,  # what a program prints
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_a_block_of_code_names_is_there(block: Block) -> None:
    assert block.language in LANGUAGES, f"nothing checks the language {block.language!r}"
    LANGUAGES[block.language](block)


def test_the_blocks_are_found() -> None:
    languages = [block.language for block in BLOCKS]
    assert set(languages) == set(LANGUAGES) and len(languages) > 40
    shell = [block.text for block in BLOCKS if block.language == "sh"]
    assert {words[0] for text in shell for words in commands(text)} == set(CHECKS)


@pytest.mark.parametrize(
    "text",
    [
        "make everything",
        "pip install '.[telepathy]'",
        "python experiments/nowhere.py",
        "edje index",
        "edje search photos.edje dogs --tops 3",
        "edje serve photos.edje --port many",
        "edje fly photos.edje",
        "srun -N2 python walk.py",
        "curl http://127.0.0.1",
    ],
)
def test_a_command_of_what_is_not_there_is_refused(text: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check_shell(Block("", 1, "sh", text))


def test_an_option_of_what_is_not_there_is_refused() -> None:
    matching = "_target_: edje.objectives.matching.Matching\n"
    check_yaml(Block("", 1, "yaml", matching + "form: binary"))
    for wrong in ("form: round", "shape: binary"):
        with pytest.raises((AssertionError, KeyError)):
            check_yaml(Block("", 1, "yaml", matching + wrong))

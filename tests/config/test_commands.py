"""The commands that are written down compose, and every key in them is one of today."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from edje.config.locations import conf_folder, register_resolvers
from edje.config.overrides import forced, readable, refuse_former_names
from edje.config.validate import problems_of

ROOT = Path(__file__).parents[2]
CONF = conf_folder()
LAUNCHED = r"(?:srun [^|`]*python|torchrun [^|`]*|python) run\.py"  # also by a launcher
COMMAND = re.compile(rf"^[# ]*{LAUNCHED} (?P<arguments>[^|`]*=[^|`]*)$")
INLINE = re.compile(r"`python run\.py ([^`\n]*=[^`\n]*)`")
PLACE = re.compile(r"<[^<>]*>")  # what a user puts a name of his own into


def written_in(path: Path) -> list[str]:
    """The arguments of each command of a file, whatever lines it goes over."""
    text = re.sub(r" *\\\n[# ]*", " ", path.read_text("utf-8"))
    lines = (re.split(r" +# ", line)[0] for line in text.splitlines())
    found = [found["arguments"] for line in lines if (found := COMMAND.match(line))]
    return [*found, *INLINE.findall(text)]


OWN = re.compile(
    r"=group_means|=your_package|--config-dir"
)  # of what a reader writes: tests/test_registry.py
FILES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("experiments/*/README.md"),
    *CONF.rglob("*.yaml"),
]
COMMANDS = {
    f"{path.relative_to(ROOT)}: {arguments}": arguments
    for path in sorted(FILES)
    for arguments in written_in(path)
    if not OWN.search(arguments)
}


def filled(place: re.Match[str]) -> str:
    """Something of a user's own: a number of steps, or a path."""
    return "7" if place[0] in ("<steps>", "<more>") else "there"


def of_one_job(override: str) -> str:
    """An override with the first of its values, where a sweep gives several."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return override
    if parsed.is_interval_sweep():
        return f"{override.partition('=')[0]}={parsed.value().start}"
    return f"{override.partition('=')[0]}={next(parsed.sweep_string_iterator())}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_written_down_composes_and_validates(command: str) -> None:
    register_resolvers()
    given = PLACE.sub(filled, COMMANDS[command]).replace("…", "there")
    arguments = readable([one for one in shlex.split(given) if "=" in one])
    refuse_former_names(arguments)
    overrides = [of_one_job(one) for one in forced(arguments, CONF)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", overrides)
    problems = [p for p in problems_of(cfg) if "???" not in str(p)]  # for the user to give
    assert not problems, "\n".join(map(str, problems))


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 40
    assert any("start.path=<the run of distil>" in command for command in COMMANDS)
    assert any("scoring.num_tokens=2,4,8" in command for command in COMMANDS)
    launched = [one for one in written_in(ROOT / "docs/sweeps.md") if "trainer.num_nodes" in one]
    assert len(launched) == 2, "by srun and by torchrun"

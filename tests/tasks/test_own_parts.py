"""A user's own adapter, objective and backbone: trained, saved, loaded and swept over like ours."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from edje.analysis import load_runs
from edje.cli import run
from edje.errors import EdjeError
from edje.inference.reranker import Reranker
from tests.tiny.package import make_package
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[2]
OPTIONS = {
    "adapter/mine": "_target_: first_tokens\nnum_tokens: 4\nhidden_width: 32\n",
    "objective/small": "# @package objective.small\n_target_: shrink\nweight: 0.1\n",
    "backbone/seen": "_target_: seen\npretrained: ???\n",
    "experiment/of_mine": """# @package _global_
defaults:
  - override /adapter: mine
  - override /objective: [matching, small]
  - override /backbone: seen
""",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the installed package in `site`, configuration files in `conf`."""
    folder = tmp_path_factory.mktemp("home")
    make_package(folder / "site")
    for name, text in OPTIONS.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(home / "site")
    yield


@pytest.fixture(scope="module")
def world(home: Path) -> list[str]:
    """Overrides of a run with all three parts, which `run` holds finished."""
    shared = make_world(home)
    own = with_changes(shared, "backbone=seen", "objective=[matching,small]", "adapter=mine")
    overrides = ["--config-dir", str(home / "conf"), *own]
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(home / "site")
        run(overrides)
    return overrides


def fresh(code: str) -> str:
    """What a new process says."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_a_checkpoint_keeps_the_short_names_and_where_they_came_from(
    world: list[str], home: Path
) -> None:
    content = torch.load(home / "run" / "checkpoints" / "model.ckpt", weights_only=True)
    assert content["edje"]["adapter"]["target"] == "first_tokens"
    brought = {"first_tokens": "house-parts", "shrink": "house-parts", "seen": "house-parts"}
    assert content["edje"]["packages"] == brought
    config = yaml.safe_load(content["edje_config"])
    names = [config[group]["_target_"] for group in ("adapter", "backbone")]
    assert [*names, config["objective"]["small"]["_target_"]] == ["first_tokens", "seen", "shrink"]


def test_a_fresh_process_says_what_lacks_without_the_package_and_loads_it_with_it(
    world: list[str], home: Path
) -> None:
    load = (
        "import sys; from edje import EdjeError, Reranker\n"
        f"def load(): return Reranker.from_pretrained({str(home / 'run')!r}).model.adapter\n"
        "try: load()\n"
        "except EdjeError as error: print(error)\n"
        f"sys.path.append({str(home / 'site')!r}); print(type(load()))"
    )
    said = fresh(load)
    assert "house_parts.adapter.FirstTokens" in said
    assert 'it needs the adapter "first_tokens", which isn\'t registered here' in said
    assert "It came with the package house-parts: install that" in said


def test_the_command_line_evaluates_and_resumes_it(
    world: list[str], home: Path, tmp_path: Path
) -> None:
    run(["task=evaluate", f"checkpoint={home / 'run'}", f"hydra.run.dir={tmp_path}"])
    assert (tmp_path / "metrics.json").read_text()
    run([f"resume={home / 'run'}", "scoring.candidates=4"])


def test_without_the_package_the_command_line_says_what_is_missing(
    world: list[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(home / "site")])
    for given in (f"checkpoint={home / 'run'}", f"resume={home / 'run'}"):
        with pytest.raises(EdjeError, match=r'needs the backbone "seen".*package house-parts'):
            run(["task=evaluate", given, f"hydra.run.dir={tmp_path}"])


def test_a_sweep_goes_over_options_of_ones_own_and_ours(
    world: list[str], home: Path, tmp_path: Path
) -> None:
    changes = ("adapter=mine,local", "adapter.hidden_width=16", "trainer.max_steps=1")
    kept = [line for line in world if not line.startswith("adapter.num_tokens")]
    run(["-m", *with_changes(kept, *changes, f"hydra.sweep.dir={tmp_path}")])
    runs = load_runs(tmp_path)
    assert list(runs["status"]) == ["done", "done"]
    adapters = [
        type(Reranker.from_pretrained(tmp_path / job).model.adapter).__name__ for job in "01"
    ]
    assert adapters == ["FirstTokens", "LocalAdapter"]


@pytest.mark.parametrize("way", ["flag", "searchpath"])
def test_an_experiment_of_ones_own_chooses_them_all(
    world: list[str], home: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    conf = home / "conf"
    flag = ["--config-dir", str(conf)]
    where = flag if way == "flag" else [f"hydra.searchpath=[file://{conf}]"]
    run([*where, "experiment=of_mine", "--cfg", "job"])
    composed = yaml.safe_load(capsys.readouterr().out)
    assert composed["adapter"]["_target_"] == "first_tokens"
    assert list(composed["objective"]) == ["matching", "small"]


def test_an_unknown_option_is_told_those_of_ones_own_too(world: list[str], home: Path) -> None:
    with pytest.raises(EdjeError, match=r"Did you mean adapter=mine\?"):
        run(["--config-dir", str(home / "conf"), "adapter=mime"])


SCRIPT = """
import sys

import edje
from edje.models.adapters import LocalAdapter
from edje.cli import main


@edje.register_adapter("scripted")
class Scripted(LocalAdapter):
    def __init__(self, facts, *, hidden_width: int = 32, num_tokens: int = 16):
        super().__init__(facts, hidden_width=hidden_width)


if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.clusters
def test_every_rank_knows_what_a_script_or_a_package_registers(
    world: list[str], home: Path, tmp_path: Path
) -> None:
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    changes = ("adapter=mine", "+adapter._target_=scripted", "trainer.devices=2")
    own = with_changes(world, *changes, "task=train", f"hydra.run.dir={tmp_path / 'run'}")
    own = [line.replace("+adapter._target_", "adapter._target_") for line in own]
    path = os.pathsep.join(map(str, (ROOT, home / "site")))
    done = subprocess.run(
        [sys.executable, str(script), *own],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "run" / "checkpoints" / "model.ckpt", weights_only=True)
    assert content["edje"]["adapter"]["target"] == "scripted"

"""A tiny project made on the spot: components, a conf folder for them, and a task."""

import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

import edje
from edje import cli
from edje.config import continued as checkpoint
from edje.config import root
from edje.errors import EdjeError
from tests.tiny.project import CONF, PARTS, write_yaml


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf folder of tiny components; commands run in an empty working directory."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "sample_parts.py").write_text(PARTS)
    monkeypatch.setattr(edje, "__path__", [*edje.__path__, str(package)])
    folder = tmp_path / "conf"
    real = Path(edje.__file__).parent.parent / "conf"
    for name, text in CONF.items():
        write_yaml(folder / f"{name}.yaml", text)
    for kind in ("help", "job_logging", "hydra_logging"):
        target = folder / "hydra" / kind / "edje.yaml"
        target.parent.mkdir(parents=True)
        target.write_text((real / "hydra" / kind / "edje.yaml").read_text())
    for option in (
        "storage/default",
        "start/fresh",
        "start/checkpoint",
        "start/canonical",
        "paper/none",
        "index/default",
        "ray/default",
    ):
        write_yaml(folder / f"{option}.yaml", (real / f"{option}.yaml").read_text())
    run = OmegaConf.load(real / "run.yaml")
    assert isinstance(run, DictConfig)
    options = {
        "data": "drawn",
        "backbone": "tower",
        "adapter": "compression",
        "joint": "tiny",
        "objective": ["matching", "recovery"],
        "negatives": "in_batch",
        "loader": "default",
        "optim": "adamw",
        "trainer": "default",
        "logger": "csv",
        "scoring": "default",
        "benchmark": "default",
    }
    kept = [
        {"experiment": None} if d != "_self_" and "experiment" in d else d
        for d in run.defaults
        if d == "_self_" or not set(d) & set(options)
    ]
    run.defaults = [*({group: option} for group, option in options.items()), *kept]
    (folder / "run.yaml").write_text(OmegaConf.to_yaml(run))
    for module in (cli, checkpoint):
        monkeypatch.setattr(module, "conf_folder", lambda: folder)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DictConfig, Path]]:
    """Replace every task by one that notes its calls and fails where the seed asks for it."""
    calls: list[tuple[DictConfig, Path]] = []

    def run(cfg: DictConfig, folder: Path) -> float:
        calls.append((cfg, folder))
        logging.getLogger("edje.sample").info("working on seed %d", cfg.seed)
        if cfg.seed == 13:
            raise EdjeError("seed=13: unlucky. Take another.")
        if cfg.seed == 14:
            raise RuntimeError("a bug")
        return float(cfg.seed)

    module = types.ModuleType("edje_sample_task")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for task in root.TASKS:
        monkeypatch.setitem(root.TASKS, task, module.__name__)
    return calls


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hydra without launchers beside its own, whatever is installed here."""
    Plugins.instance()  # which, when it is first asked for, fills the store with what it finds
    options = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.setitem(
        ConfigStore.instance().repo["hydra"],
        "launcher",
        {name: option for name, option in options.items() if name == "basic.yaml"},
    )


@pytest.fixture
def command(
    conf: Path, tasks: list[tuple[DictConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., int]]:
    """Run the command line in this process; returns the exit status."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        return cli.main()

    yield run
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def launcher() -> type[Launcher]:
    """Hydra's own launcher as Hydra builds it: its first look for plugins defines classes anew."""
    by_name = {plugin.__name__: plugin for plugin in Plugins.instance().discover(Launcher)}
    return by_name["BasicLauncher"]

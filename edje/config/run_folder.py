"""Run folders: where a run keeps its configuration, environment, logs and results."""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import edje
from edje.config.defaults import fill_defaults
from edje.config.resolution import leaves
from edje.config.resumption import best_on_dev, is_finished
from edje.config.saved import from_text, to_text
from edje.durable import new_file
from edje.errors import EdjeError
from edje.parallel.environment import launched
from edje.parallel.slurm import job
from edje.renames import LATER_KEYS

JOB_FILE = "job.json"  # the state of a sweep's job, also of a refused one
PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "timm",
    "datasets",
    "torchmetrics",
    "numpy",
    "hydra-core",
    "omegaconf",
)


@contextmanager
def logging_into(folder: Path) -> Iterator[None]:
    """Log into a run folder's logs/run.log."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "logs" / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def create_run_folder(
    cfg: DictConfig, overrides: Sequence[str], folder: Path, resumed: bool = False
) -> None:
    """Write config.yaml, overrides.yaml and environment.json into a new run folder.

    In a resumed run's folder nothing is lost. config.yaml is the one now in use; an earlier one
    that differs is kept as config.1.yaml. Overrides and environment of the resumption are saved
    beside the first ones as overrides.1.yaml and environment.1.json.

    Raises:
        EdjeError: the folder isn't empty, and the run is not being resumed.
    """
    held = [path for path in folder.glob("*") if not path.match("error*.txt")]
    if not resumed and {path.name for path in held} - {JOB_FILE}:
        raise EdjeError(
            f"Run folder {folder}: it already holds {len(held)} entries, "
            "expected a new or empty one. Leave hydra.run.dir out to get a new folder, or continue "
            f"that run with resume={folder}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    forget_failure(folder)
    config, text = folder / "config.yaml", own_text(cfg)
    if config.exists() and config.read_text(encoding="utf-8") != text:
        config.rename(unused(config))
    write(config, text)
    write(unused(folder / "overrides.yaml"), OmegaConf.to_yaml(list(overrides)))
    write(unused(folder / "environment.json"), json.dumps(environment(), indent=2) + "\n")


def own_text(cfg: DictConfig) -> str:
    """The text of a run's config.yaml."""
    own = cfg.copy()
    own.resume = None  # of this command, not of the run
    return to_text(own)


def holds_run_of(cfg: DictConfig, folder: Path) -> bool:
    """Whether a folder holds a run with exactly this configuration, finished or not."""
    if not (folder / "config.yaml").is_file():
        return False
    stored, own = stored_and_own(cfg, folder)
    return not differing(stored, own)  # former names of an earlier version count as equal


def refuse_other_run(cfg: DictConfig, folder: Path) -> None:
    """Refuse a job's folder that holds a run of another configuration.

    Raises:
        EdjeError: it does; names a difference.
    """
    if not (folder / "config.yaml").is_file():
        return
    stored, own = stored_and_own(cfg, folder)
    changed = differing(stored, own)
    if changed:
        key, more = changed[0], f" (and {len(changed) - 1} more)" if changed[1:] else ""
        raise EdjeError(
            f"Run folder {folder}: it holds another run, with {key}={stored.get(key)} where this "
            f"job has {key}={own.get(key)}{more}. Give this sweep its own folder with "
            "hydra.sweep.dir=<folder> or name=<name>."
        )


def stored_and_own(cfg: DictConfig, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the run in a folder and of a configuration, by full key."""
    path = folder / "config.yaml"
    texts = (path.read_text(encoding="utf-8"), own_text(cfg))
    stored, own = (
        OmegaConf.to_container(fill_defaults(from_text(text, str(path)))) for text in texts
    )
    assert isinstance(stored, dict)
    return dict(leaves("", {**LATER_KEYS, **stored})), dict(leaves("", own))


def differing(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """The full keys whose values differ between two runs; a missing key counts as null.

    The choice of a logger is ignored.
    """
    keys = [key for key in stored | own if stored.get(key) != own.get(key)]
    return [key for key in keys if key.partition(".")[0] != "logger"]


def figure_of(folder: Path) -> float | None:
    """A finished run's return value, by which a study chooses; None if it has not finished.

    It is the best t2i R@1 on dev, in percent, of a run that was scored there while it trained, of
    others that on the evaluated split.
    """
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return None
    if (best := best_on_dev(folder)) is not None:
        return best
    stages = json.loads(metrics.read_text(encoding="utf-8-sig"))["t2i"]
    return float(stages.get("reranked", stages["first_stage"])["recall@1"]["value"])


def has_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether the run in a folder has this configuration and has finished."""
    is_measured = (folder / "metrics.json").is_file()
    return is_measured or (cfg.task == "train" and is_finished(folder))


def is_of_job(folder: Path, number: str | None) -> bool:
    """Whether this Slurm job created a run folder or continued the run in it."""
    facts = (json.loads(path.read_text()) for path in folder.glob("environment*.json"))
    return number is not None and number in (known.get("slurm_job") for known in facts)


def unused(path: Path) -> Path:
    """The path, or if it exists, the first free numbered one (name.1.yaml)."""
    numbered, number = path, 0
    while numbered.exists():
        number += 1
        numbered = path.with_suffix(f".{number}{path.suffix}")
    return numbered


def write(path: Path, text: str) -> None:
    """Write a file atomically, by rename."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def record_failure(folder: Path, error: BaseException, name: str = "error.txt") -> None:
    """Write what failed: the message of a user's error, or the traceback of any other."""
    if isinstance(error, EdjeError):
        text = f"{error}\n"
    else:
        text = "".join(traceback.format_exception(error))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def forget_failure(folder: Path) -> None:
    """Remove an earlier attempt's record of its failure."""
    for error in folder.glob("error*.txt"):
        error.unlink()


def environment() -> dict[str, Any]:
    """Where a run happens: commit, versions, device, cores."""
    import torch

    versions = {"python": platform.python_version(), "edje": edje.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    cuda = torch.cuda.is_available()
    process = launched()
    return {
        "git_sha": git("rev-parse", "HEAD"),
        "git_changed_files": len((git("status", "--porcelain") or "").splitlines()),
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "num_devices": torch.cuda.device_count() if cuda else 1,
        "cpu_count": os.cpu_count(),
        "launcher": None if process is None else process.launcher,
        "num_nodes": 1 if process is None else process.num_nodes,
        "world_size": None if process is None else process.world_size,  # null: trainer.devices
        "slurm_job": job(),
    }


def git(*arguments: str) -> str | None:
    """Git's output for the checkout that contains the package; None outside a checkout."""
    checkout = Path(edje.__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()

"""Where the configuration files are, and the resolvers for their computed values."""

from datetime import datetime

from omegaconf import MISSING, OmegaConf

from edje.installed import asset, conf_folder
from edje.parallel.slurm import step

__all__ = ["conf_folder", "register_resolvers", "run_name", "timestamp"]


def timestamp() -> str:
    """Local date and time to the millisecond, as used in names of run folders."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]


def run_name() -> str:
    """The name of a run folder: its time, or its Slurm step, also after being queued again."""
    by_slurm = step()
    return timestamp() if by_slurm is None else f"slurm_{by_slurm}"


def register_resolvers() -> None:
    """Register `${run_name:}`, `${timestamp:}`, `${asset:}` and `${needed:}` for configurations.

    `${needed:}` removes a value, so that the user has to give one: a plain `???` in an
    experiment would leave the earlier value, as Hydra merges files.
    """
    OmegaConf.register_new_resolver("timestamp", timestamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("needed", lambda: MISSING, replace=True)
    OmegaConf.register_new_resolver("asset", asset, replace=True)

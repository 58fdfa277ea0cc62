"""Where the configuration files lie, and the names that they may compute."""

from datetime import datetime

from omegaconf import MISSING, OmegaConf

from edje.installed import asset, conf_folder
from edje.parallel.slurm import step

__all__ = ["conf_folder", "register_resolvers", "run_name", "timestamp"]


def timestamp() -> str:
    """Local date and time to the millisecond, as run folders are named."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]


def run_name() -> str:
    """What a run folder is called: by its time, or by a step of Slurm's, queued again or not."""
    by_slurm = step()
    return timestamp() if by_slurm is None else f"slurm_{by_slurm}"


def register_resolvers() -> None:
    """Make `${run_name:}`, `${timestamp:}`, `${asset:}` and `${needed:}` known to configurations.

    `${needed:}` takes a value back, so that the user has to give one: a plain `???` in an
    experiment would leave the value that is there, as Hydra merges files.
    """
    OmegaConf.register_new_resolver("timestamp", timestamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("needed", lambda: MISSING, replace=True)
    OmegaConf.register_new_resolver("asset", asset, replace=True)

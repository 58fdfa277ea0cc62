"""Where the configuration files lie, and the names that they may compute."""

from datetime import datetime
from pathlib import Path

from omegaconf import MISSING, OmegaConf

import edje
from edje.errors import EdjeError


def conf_folder() -> Path:
    """The folder of configuration files: inside the wheel, or beside the package in a checkout.

    Raises:
        EdjeError: the installation has neither.
    """
    package = Path(edje.__file__).absolute().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "run.yaml").is_file():
            return folder
    raise EdjeError(
        f"Found no conf/run.yaml in {package} or beside it. Install edje from a wheel or a "
        "checkout."
    )


def timestamp() -> str:
    """Local date and time to the millisecond, as run folders are named."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]


def asset(path: str) -> str:
    """The absolute path of a file or folder shipped in edje/assets."""
    return str(Path(edje.__file__).absolute().parent / "assets" / path)


def register_resolvers() -> None:
    """Make `${timestamp:}`, `${asset:path}` and `${needed:}` known to configuration files.

    `${needed:}` takes a value back, so that the user has to give one: a plain `???` in an
    experiment would leave the value that is there, as Hydra merges files.
    """
    OmegaConf.register_new_resolver("timestamp", timestamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("needed", lambda: MISSING, replace=True)
    OmegaConf.register_new_resolver("asset", asset, replace=True)

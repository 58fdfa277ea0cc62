"""The parts of an installation that aren't code: the configuration files and the shipped models."""

from pathlib import Path

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


def asset(path: str) -> str:
    """The absolute path of a file or folder shipped in edje/assets."""
    return str(Path(edje.__file__).absolute().parent / "assets" / path)

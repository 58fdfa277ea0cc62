"""Where a checkpoint lies: in a file, a run folder, a downloaded folder, or on the hub."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from edje.errors import EdjeError
from edje.inference.published import SUFFIXES, is_published

OF_A_RUN = ("model.ckpt", "best.ckpt", "last.ckpt")
HUB_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<file>.+))?")


def find_checkpoint(path: Path) -> Path:
    """The file that a path means, or a hub name where nothing lies at it.

    Of a run folder model.ckpt, then best.ckpt, then last.ckpt; of another folder and of a
    repository of the hub its one file of the published format, whatever it is called. The hub's
    cache does where the hub can't be reached.

    Raises:
        EdjeError: there is no checkpoint, or there are several of the published format.
    """
    if path.is_file():
        return path
    for name in OF_A_RUN:
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    if files := _weights(path.iterdir() if path.is_dir() else []):
        return _published_one(files, path, str(path))
    if not path.exists() and (on_hub := hub_name(str(path))):
        return _downloaded(*on_hub)
    raise EdjeError(
        f"checkpoint={path}: found no checkpoint there (expected a .ckpt file, or a run folder "
        "with checkpoints/model.ckpt, best.ckpt or last.ckpt). See the list of runs under runs/."
    )


def hub_name(given: str) -> tuple[str, str | None] | None:
    """Repository and file (None: the one that is there) of a hub name; None for a path.

    >>> hub_name("somebody/reranker"), hub_name("somebody/reranker/large/model.pth")
    (('somebody/reranker', None), ('somebody/reranker', 'large/model.pth'))
    >>> hub_name("runs/shapes/2026-01-31"), hub_name("checkpoints/model.pth")
    (None, None)
    """
    found = HUB_NAME.fullmatch(given)
    if found is None or found["repo"].endswith((".ckpt", *SUFFIXES)):
        return None
    if found["file"] is not None and not found["file"].endswith(SUFFIXES):
        return None
    return found["repo"], found["file"]


def _downloaded(repo: str, file: str | None) -> Path:
    """A file of a repository, downloaded now or lying in the hub's cache."""
    given = repo if file is None else f"{repo}/{file}"
    wanted = [f"*{suffix}" for suffix in SUFFIXES] if file is None else [file]
    try:
        folder = Path(snapshot_download(repo, allow_patterns=wanted))
    except Exception as error:  # of the hub's client, of HTTP, of the network
        said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise EdjeError(
            f"checkpoint={given}: no file or folder lies there, and as a name on the hub it can't "
            f"be read ({type(error).__name__}: {said}). Check the spelling, your network and "
            f"your rights (`hf auth login`); offline, fetch it before (`hf download {repo}`)."
        ) from error
    if file is not None and (folder / file).is_file():
        return folder / file
    files = _weights(folder.rglob("*"))
    if file is not None or not files:
        there = _names(files, folder)
        raise EdjeError(
            f"checkpoint={given}: the repository {repo} has no {file or ' or '.join(SUFFIXES)}"
            f"{f'; it has {there}' if there else ''}. Name one of its files: "
            f"checkpoint={repo}/<file>."
        )
    return _published_one(files, folder, repo)


def _weights(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix in SUFFIXES and path.is_file())


def _published_one(files: Sequence[Path], folder: Path, where: str) -> Path:
    """The one among the files of a folder that is of the published format.

    Raises:
        EdjeError: several are, or none of several is.
    """
    if len(files) == 1:
        return files[0]
    fitting = [path for path in files if is_published(path)]
    if len(fitting) == 1:
        return fitting[0]
    count = f"{len(fitting)} files are" if fitting else "none of its files is"
    names = _names(fitting or files, folder)
    raise EdjeError(
        f"checkpoint={where}: {count} of the published format ({names}). Name the one that you "
        f"mean: checkpoint={where}/<file>."
    )


def _names(files: Sequence[Path], folder: Path) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in files)

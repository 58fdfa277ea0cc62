"""Where a checkpoint is: in a file, a run folder, a saved folder, with edje, or on the hub."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download

from edje.errors import EdjeError, first_line
from edje.inference.published import SUFFIXES, is_published
from edje.installed import asset

OF_A_RUN = ("model.ckpt", "best.ckpt", "last.ckpt")
CHECKPOINTS, SAVED_BY_A_RUN = "checkpoints", "pretrained"  # folders in a run folder
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a folder that save_pretrained wrote
TOKENIZER = "tokenizer.json"  # in the same folder
MODEL_TYPE = "edje"  # in its config.json
SHIPPED = ("photos", "shapes")  # rerankers that come with edje, under assets/<name>/reranker
BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")  # downloaded besides the weights of a saved folder
HUB_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<file>[^@]+))?(@(?P<revision>[\w./-]+))?"
)


def find_checkpoint(path: Path, revision: str | None = None) -> Path:
    """The checkpoint file of a path; if nothing is there, of a shipped name or a hub name.

    In a run folder: model.ckpt, then best.ckpt, then last.ckpt, then what is saved in it. In a
    folder of `save_pretrained`: its weights. In another folder or a repository of the hub: its
    one file in the published format, whatever its name. If the hub can't be reached, its cache is
    used. `revision` is a branch, tag or commit on the hub; it can also end the hub name, after @.

    Raises:
        EdjeError: there is no checkpoint, there are several in the published format, or there is a
            revision of what isn't on the hub.
    """
    if revision is not None and (path.exists() or shipped_folder(str(path))):
        raise EdjeError(
            f"checkpoint={path}: revision={revision!r} is of a name on the hub, and this "
            f"{'is a path' if path.exists() else 'comes with edje'}. Leave the revision out."
        )
    if path.is_file():
        return path
    for name in OF_A_RUN:
        if (path / CHECKPOINTS / name).is_file():
            return path / CHECKPOINTS / name
    for folder in (path, path / SAVED_BY_A_RUN):
        if is_saved(folder):
            return folder / WEIGHTS
    if files := _weights(path.iterdir() if path.is_dir() else []):
        return _published_one(files, path, str(path))
    if not path.exists():
        if shipped := shipped_folder(str(path)):
            return shipped / WEIGHTS
        if on_hub := hub_name(str(path)):
            repo, file, named = on_hub
            if revision and named and revision != named:
                raise EdjeError(
                    f"checkpoint={path}: revision={revision!r} is another one than the name has. "
                    "Give one of them."
                )
            return _downloaded(repo, file, revision or named)
    elif shipped_folder(str(path)):
        raise EdjeError(
            f"checkpoint={path}: {path.absolute()} exists and holds no checkpoint. edje's own "
            f"{path} is only found if nothing here has that name. Rename it, or change folder."
        )
    raise EdjeError(
        f"checkpoint={path}: found no checkpoint there (expected a .ckpt file, a run folder with "
        "checkpoints/model.ckpt, best.ckpt or last.ckpt, a folder of save_pretrained, or one "
        f"of edje's own: {', '.join(SHIPPED)}). See the list of runs under runs/."
    )


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `Reranker.save_pretrained` wrote."""
    if not ((folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()):
        return False
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("model_type") == MODEL_TYPE


def shipped_folder(name: str) -> Path | None:
    """The folder of a reranker that comes with edje; None for any other name."""
    return Path(asset(f"{name}/reranker")) if name in SHIPPED else None


def hub_name(given: str) -> tuple[str, str | None, str | None] | None:
    """Repository, file (None: its only one) and revision of a hub name; None for a path.

    >>> hub_name("somebody/reranker"), hub_name("somebody/reranker/large/model.pth@v1")
    (('somebody/reranker', None, None), ('somebody/reranker', 'large/model.pth', 'v1'))
    >>> hub_name("runs/shapes/2026-01-31"), hub_name("checkpoints/model.pth")
    (None, None)
    """
    found = HUB_NAME.fullmatch(given)
    if found is None or found["repo"].endswith((".ckpt", *SUFFIXES)):
        return None
    if found["file"] is not None and not found["file"].endswith(SUFFIXES):
        return None
    return found["repo"], found["file"], found["revision"]


def _downloaded(repo: str, file: str | None, revision: str | None) -> Path:
    """A file of a repository, downloaded now or taken from the hub's cache."""
    given = repo if file is None else f"{repo}/{file}"
    wanted = [file] if file else [*(f"*{suffix}" for suffix in SUFFIXES), *BESIDE_WEIGHTS]
    try:
        folder = _snapshot(repo, wanted, revision)
    except Exception as error:  # from the hub's client, HTTP or the network
        said = first_line(error).partition(". ")[0].rstrip(".")
        at = f" at revision {revision}" if revision else ""
        raise EdjeError(
            f"checkpoint={given}: no such file or folder exists, and as a name on the hub it can't "
            f"be read{at} ({type(error).__name__}: {said}). Check the spelling, your network and "
            f"your rights (`hf auth login`). To work offline, run `hf download {repo}` first."
        ) from error
    if file is not None and (folder / file).is_file():
        return folder / file
    if file is None and is_saved(folder):
        return folder / WEIGHTS
    files = _weights(folder.rglob("*"))
    if file is not None or not files:
        there = _names(files, folder)
        raise EdjeError(
            f"checkpoint={given}: the repository {repo} has no {file or ' or '.join(SUFFIXES)}"
            f"{f'; it has {there}' if there else ''}. Name one of its files: "
            f"checkpoint={repo}/<file>."
        )
    return _published_one(files, folder, repo)


def _snapshot(repo: str, wanted: list[str], revision: str | None) -> Path:
    """A repository's files: downloaded if missing, or else whatever the cache has of them."""
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted, revision=revision))
    except Exception:  # some clients need the list of files, though they have the commit
        with suppress(Exception):
            return Path(snapshot_download(repo, revision=revision, local_files_only=True))
        raise


def _weights(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix in SUFFIXES and path.is_file())


def _published_one(files: Sequence[Path], folder: Path, where: str) -> Path:
    """The one file of a folder that has the published format.

    Raises:
        EdjeError: several files have it, or none does.
    """
    if len(files) == 1:
        return files[0]
    fitting = [path for path in files if is_published(path)]
    if len(fitting) == 1:
        return fitting[0]
    count = f"{len(fitting)} files are" if fitting else "none of its files is"
    names = _names(fitting or files, folder)
    raise EdjeError(
        f"checkpoint={where}: {count} in the published format ({names}). Name the file that you "
        f"want: checkpoint={where}/<file>."
    )


def _names(files: Sequence[Path], folder: Path) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in files)

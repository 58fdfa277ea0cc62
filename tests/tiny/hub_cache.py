"""The hub's cache as its client leaves it once a repository was downloaded."""

import shutil
from collections.abc import Mapping
from pathlib import Path

COMMIT = "a" * 40


def put_into_cache(
    hub: Path,
    name: str,
    files: Path | Mapping[str, Path],
    commit: str = COMMIT,
    without: tuple[str, ...] = (),
) -> Path:
    """A commit of a repository, its main branch now: a folder's files, or files by their names.

    Returns the folder in which the client finds them.
    """
    if isinstance(files, Path):
        files = {path.relative_to(files).as_posix(): path for path in files.rglob("*")}
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for number, (place, source) in enumerate(sorted(files.items())):
        if source.is_file() and place not in without:
            blob = repository / "blobs" / f"{commit[:8]}{number:032x}"
            shutil.copyfile(source, blob)
            (snapshot / place).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / place).symlink_to(blob)
    return snapshot

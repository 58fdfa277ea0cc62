"""A hub that is a folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FolderHub:
    """One folder per repository, with the methods of `HfApi` that are used."""

    root: Path
    private: bool | None = None  # as the last repository was asked for
    repo_type: str | None = None  # what it was to hold

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(
        self, repo: str, *, private: bool, exist_ok: bool, repo_type: str = "model"
    ) -> None:
        assert exist_ok
        FolderHub.private, FolderHub.repo_type = private, repo_type
        (self.root / repo).mkdir(parents=True, exist_ok=True)

    def create_commit(
        self, repo: str, operations: list[Any], *, commit_message: str, repo_type: str
    ) -> SimpleNamespace:
        for operation in operations:
            with operation.as_file() as file:
                (self.root / repo / operation.path_in_repo).write_bytes(file.read())
        return SimpleNamespace(commit_url=f"hub://{repo}/1")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> SimpleNamespace:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"hub://{repo_id}/1")

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]
    ) -> str:
        if not (self.root / repo).is_dir():
            raise ConnectionError("404")
        copy = self.root / "downloads" / repo
        copy.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for path in (self.root / repo).glob(pattern):
                shutil.copy(path, copy)
        return str(copy)

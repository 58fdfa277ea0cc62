"""The logger of Weights & Biases: one W&B run per run folder."""

import secrets
from pathlib import Path

import yaml
from lightning.pytorch.loggers import WandbLogger

from edje.parallel.environment import own_rank


class WeightsAndBiases(WandbLogger):
    """One W&B run per run folder, continued when the folder's run is resumed, with its config.

    It ends with the training, so that the next run of a sweep is a new one.

    Args:
        save_dir: the run folder.
        name: name of the folder in it for W&B's files.
        version: the part of the training; a resumed one continues the same W&B run.
        project: the W&B project; `entity`, `group` and `tags` are as in `wandb.init`.
        offline: send nothing; `wandb sync` sends it later.

    Raises:
        ModuleNotFoundError: wandb isn't installed.
    """

    def __init__(
        self,
        *,
        save_dir: str = ".",
        name: str = "logs",
        version: str = "part_0",
        project: str = "edje",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
    ):
        folder = Path(save_dir).resolve()
        config = folder / "config.yaml"
        super().__init__(
            name="/".join(folder.parts[-2:]),
            save_dir=str(folder / name),
            id=lasting_id(folder / name / "wandb_id.txt"),
            project=project,
            offline=offline,
            entity=entity,
            group=group,
            tags=tags,
            config=yaml.safe_load(config.read_text("utf-8")) if config.is_file() else None,
        )

    def finalize(self, status: str) -> None:
        """End the W&B run."""
        super().finalize(status)
        if self._experiment is not None:  # on rank 0, if something was logged
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def lasting_id(file: Path) -> str:
    """The id in a file, or a new one, which rank 0 writes to the file."""
    if file.is_file():
        return file.read_text("utf-8").strip()
    fresh = secrets.token_hex(6)
    if own_rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{fresh}\n", "utf-8")
    return fresh

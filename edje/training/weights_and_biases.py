"""The logger of Weights & Biases: one run there for each run folder."""

import secrets
from pathlib import Path

import yaml
from lightning.pytorch.loggers import WandbLogger

from edje.parallel.environment import own_rank


class WeightsAndBiases(WandbLogger):
    """A run there for each run folder, the same one when it is resumed, with its configuration.

    It ends with the training, so that the next run of a sweep is another.

    Args:
        save_dir: the run folder.
        name: of the folder in it where files are kept.
        version: the part of the training; a resumed one goes on in the same run.
        project: there; `entity`, `group` and `tags` as `wandb.init` has them.
        offline: nothing is sent; `wandb sync` does so later.

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
        """End the run there."""
        super().finalize(status)
        if self._experiment is not None:  # on rank 0, where something was logged
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def lasting_id(file: Path) -> str:
    """The id that a file holds, or a fresh one, which rank 0 keeps there."""
    if file.is_file():
        return file.read_text("utf-8").strip()
    fresh = secrets.token_hex(6)
    if own_rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{fresh}\n", "utf-8")
    return fresh

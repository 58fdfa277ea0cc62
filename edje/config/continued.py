"""Runs that start from another run's configuration: `resume=` and `checkpoint=`."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from edje.config.locations import conf_folder
from edje.config.of_checkpoint import lacks_configuration, stored_config
from edje.config.of_published import config_of_published
from edje.config.overrides import is_group, key_of
from edje.config.parts import leave_out_losses
from edje.config.root import RootConfig
from edje.config.saved import from_text
from edje.errors import EdjeError

TASKS_ON_CHECKPOINT = ("evaluate", "compress")  # their configuration is the checkpoint's
OF_THE_PRESENT = (
    *("task", "checkpoint", "resume", "store", "trainer", "logger", "benchmark", "serve"),
    *("storage.batch_size", "storage.num_workers", "storage.join", "storage.tower_precision"),
)
OF_THE_EXPERIMENT = (  # also taken if experiment= is given
    *("data", "scoring", "storage.compressed_codec", "cache_dir", "paper"),
)
CHOOSABLE = ("data", "trainer", "storage", "logger", "scoring", "paper", "experiment")
OF_NO_PART = ("sweep", "hydra")  # groups without a part of their own
TRAINED_WITH = ("adapter", "joint", "objective", "negatives", "optim", "loader", "start")
WHERE_IT_IS = ("joint.pretrained", "joint.attention")  # what doesn't change the model


def resumable(folder: Path) -> Path:
    """The absolute path of a run folder that can be continued.

    Raises:
        EdjeError: the folder, its config.yaml or its checkpoints are missing.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise EdjeError(f"resume={folder}: no such folder. Give a run folder, as runs print it.")
    if not (folder / "config.yaml").is_file():
        raise EdjeError(
            f"resume={folder}: it has no config.yaml, so it is not a run folder. Give the "
            "folder that the run printed (runs/<name>/<date>_<time>)."
        )
    if not any((folder / "checkpoints").glob("*.ckpt")):
        raise EdjeError(
            f"resume={folder}: it has no checkpoint in checkpoints/, so there is nothing to "
            "continue from. Start the run again with the overrides in its overrides.yaml."
        )
    return folder


def config_for_resume(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration in `cfg.resume`, overridden by the command line's values.

    Raises:
        EdjeError: it can't be resumed, or the command line chooses a group's option.
    """
    folder = resumable(Path(cfg.resume))
    stored = from_text((folder / "config.yaml").read_text("utf-8"), f"{folder}/config.yaml")
    for override in overrides:
        if is_group(key_of(override), conf_folder()):
            raise EdjeError(
                f"{override}: a resumed run keeps the options it was started with. Leave it out, "
                "or set single values (group.key=value)."
            )
    stored = with_present(stored, cfg, [])
    apply_values(stored, overrides)
    stored.resume = str(folder)
    return stored


def config_for_checkpoint(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration in `cfg.checkpoint`, with the present run's own values on top.

    Trainer, logger and task are the present run's. Data, scoring and the like are the
    checkpoint's, unless chosen on the command line. Values on the command line win over all.

    Raises:
        EdjeError: no checkpoint, or an option or value that only the checkpoint can set.
    """
    if cfg.checkpoint is None:
        raise EdjeError(
            f"task={cfg.task} needs a trained model: give checkpoint=<run folder, .ckpt file, or "
            "file or hub name of a published checkpoint>."
        )
    if lacks_configuration(str(cfg.checkpoint)):
        return config_of_published(cfg, overrides)
    stored = stored_config(str(cfg.checkpoint))
    conf = conf_folder()
    groups = [key_of(o) for o in overrides if is_group(key_of(o), conf)]
    groups = [group for group in groups if group.split("/")[0] not in OF_NO_PART]
    if fixed := [group for group in groups if group not in CHOOSABLE]:
        raise EdjeError(
            f"{fixed[0]}=…: the checkpoint {cfg.checkpoint} was trained with its own "
            f"{fixed[0]}. Leave it out; {', '.join(CHOOSABLE)} can be chosen."
        )
    taken = [*OF_THE_PRESENT, *groups]
    if "experiment" in groups:
        taken += OF_THE_EXPERIMENT
    stored = with_present(stored, cfg, taken)
    values = [o for o in overrides if not is_group(key_of(o), conf)]
    leave_out_losses(stored, [key_of(o) for o in values])
    refuse_training_values(stored, values, f"the checkpoint {cfg.checkpoint}")
    apply_values(stored, values)
    return stored


def refuse_training_values(stored: DictConfig, overrides: Sequence[str], what: str) -> None:
    """Refuse values of a training that has ended, unless they are its own.

    Raises:
        EdjeError: a value differs from the stored one.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key.partition(".")[0] not in TRAINED_WITH or key in WHERE_IT_IS:
            continue
        own = OmegaConf.select(stored, key, default=MISSING)  # an unknown key is refused later
        if own is not MISSING and (override.is_delete() or own != override.value()):
            raise EdjeError(
                f"{override.input_line}: {what} was trained with {key}={own}. Leave it out, or "
                "train with it."
            )


def with_present(stored: DictConfig, cfg: DictConfig, taken: Sequence[str]) -> DictConfig:
    """The stored configuration with some of the present one's values and its additional root keys.

    `taken` has root keys, and names within a root key's component (`storage.join`).
    """
    kept = [str(key) for key in stored if key not in taken]
    new = [str(key) for key in cfg if key not in kept and key in RootConfig.__dataclass_fields__]
    merged = OmegaConf.merge(OmegaConf.masked_copy(stored, kept), OmegaConf.masked_copy(cfg, new))
    assert isinstance(merged, DictConfig)
    OmegaConf.set_struct(merged, False)
    present = OmegaConf.to_container(cfg)
    assert isinstance(present, dict)
    for key in taken:
        root, _, name = key.partition(".")
        if name and name in present.get(root, {}):
            merged[root][name] = present[root][name]
    return merged


def apply_values(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Set the command line's values in a configuration that wasn't composed from groups."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_hydra_override():
            continue
        if override.is_delete():
            parent, _, name = override.key_or_group.rpartition(".")
            node = OmegaConf.select(cfg, parent) if parent else cfg
            if isinstance(node, DictConfig):
                node.pop(name, None)
        else:
            OmegaConf.update(
                cfg, override.key_or_group, override.value(), merge=True, force_add=True
            )

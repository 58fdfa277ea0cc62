"""A reranker in its own folder: weights, plain values, tokenizer, model card; nothing pickled.

It has the same fields as a .ckpt. `model.safetensors` has the reranker's tensors and the first
stage's. `config.json` has everything else, including the run's configuration. `metrics.json` is
the run's, if it was evaluated. `backbone/` has the frozen encoder if it came from local files.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, cast, get_args

import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

import edje
from edje.durable import replace_file, temporary_path, writing_to
from edje.errors import EdjeError
from edje.inference.checkpoint import PREFIX, Checkpoint, checkpoint_fields
from edje.inference.location import (
    CHECKPOINTS,
    CONFIG,
    MODEL_TYPE,
    SAVED_BY_A_RUN,
    TOKENIZER,
    WEIGHTS,
    is_saved,
)
from edje.inference.model_card import model_card
from edje.inference.named_weights import (
    cached_commit,
    from_plain,
    named_weights,
    plain,
    tensors_of,
)
from edje.inference.run_choices import backbone_values, choices_of, configuration_of
from edje.installed import asset
from edje.part_kinds import Kind
from edje.registry import short_name

FORMAT = 1
FIRST_STAGE = "first_stage."
BACKBONE = "backbone"  # folder of its files, and key of a configuration
METRICS, CARD = "metrics.json", "README.md"
FILES_OF = ("pretrained", "checkpoint", "tokenizer")  # keys of a backbone that name files
COPIED = (".json", ".txt", ".model", ".safetensors", ".bin", ".pth", ".pt")
BY_NUMBER = ("fusion", "calibration")  # fields whose keys are numbers of tokens
WORDS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
WRITTEN = {WEIGHTS, CONFIG, METRICS, CARD, TOKENIZER, BACKBONE, *WORDS}  # by save_folder


def save_folder(
    checkpoint: Checkpoint,
    folder: Path,
    metrics: Mapping[str, Any] | None = None,
    *,
    with_backbone: bool = True,
    notes: str | None = None,
    licence: str | None = None,
    stored: torch.dtype = torch.float32,
) -> None:
    """Write a reranker into a new or empty folder, or replace one that was saved there.

    With `with_backbone` off, local files of the frozen encoder are named by their paths. `notes`
    are for the model card, in Markdown, and `licence` is the reranker's, as the hub names it; None
    leaves what the checkpoint has. `stored` is the number format of matrices; with fewer
    bits than float32, scores are those of the rounded weights.

    Raises:
        EdjeError: the folder holds something else, or can't be written.
    """
    checkpoint = replace(
        checkpoint,
        notes=checkpoint.notes if notes is None else notes,
        licence=checkpoint.licence if licence is None else licence,
    )
    folder = folder.resolve()
    _check_free(folder)
    if not with_backbone:
        _check_backbone_stays(checkpoint, folder)
    making = temporary_path(folder)
    shutil.rmtree(making, ignore_errors=True)
    with writing_to(folder.parent):
        try:
            making.mkdir(parents=True)
            _write(checkpoint, making, metrics, with_backbone, stored)
            _put_in_place(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def read_folder(folder: Path) -> dict[str, Any]:
    """The same dictionary as in a .ckpt.

    Raises:
        EdjeError: a file is missing or damaged, has a later version of the format, or names
            weights that are missing.
    """
    where = f"checkpoint={folder}"
    try:
        return _read(folder, where)
    except EdjeError:
        raise
    except Exception as error:  # from JSON, safetensors, the disk, or config.json's values
        raise EdjeError(
            f"{where}: can't be read ({type(error).__name__}: {error}). Expected {CONFIG}, "
            f"{WEIGHTS} and {TOKENIZER} as save_pretrained writes them: save or get them again."
        ) from error


def _read(folder: Path, where: str) -> dict[str, Any]:
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if about.get("format") != FORMAT:
        raise EdjeError(
            f"{where}: has format {about.get('format')!r}, but this edje ({edje.__version__}) "
            f"reads {FORMAT}. edje {about.get('edje_version')} wrote it: install that or a later "
            "version."
        )
    tensors = {name: _whole(one) for name, one in load_file(folder / WEIGHTS).items()}
    fields = dict(about["reranker"])
    language_model = fields["language_model"]
    fields["language_model"] = {
        **language_model,
        "config": json.dumps(language_model["config"]),
        "tokenizer": (folder / TOKENIZER).read_text(encoding="utf-8"),
    }
    for name in BY_NUMBER:
        if name in fields:
            fields[name] = _numbered(fields[name])
    first = {n.removeprefix(FIRST_STAGE): t for n, t in tensors.items() if _is_first_stage(n)}
    state = {name: tensor for name, tensor in tensors.items() if not _is_first_stage(name)}
    state |= tensors_of(from_plain(about["named_weights"]), where)
    config = about["run"]
    for key, file in about["backbone_files"].items():
        _set(config[BACKBONE], key.split("."), str(folder / _inside(key, file, where)))
    return {
        "state_dict": {PREFIX + name: tensor for name, tensor in state.items()},
        "edje": {**fields, "first_stage": first},
        "edje_config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _inside(key: str, file: str, where: str) -> PurePosixPath:
    """The path of a backbone's file, checked to be inside the folder, whatever config.json says."""
    place = PurePosixPath(file)
    names_a_file = key.split(".")[-1] in FILES_OF
    if not names_a_file or place.parts[:1] != (BACKBONE,) or ".." in place.parts:
        raise EdjeError(
            f"{where}: its {CONFIG} names {file} as its backbone's {key}; expected a file in "
            f"{BACKBONE}/ for one of {', '.join(FILES_OF)}. Don't trust this folder."
        )
    return place


def metrics_of(file: Path) -> dict[str, Any] | None:
    """The metrics of the run of a checkpoint or a saved folder; None if there are none."""
    is_of_run = file.parent.name in (CHECKPOINTS, SAVED_BY_A_RUN)
    folders = [file.parent, *([file.parent.parent] if is_of_run else [])]
    for path in (folder / METRICS for folder in folders):
        if path.is_file() and (file.name == WEIGHTS or is_of_run):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
            return found if isinstance(found, dict) else None
    return None


def _check_free(folder: Path) -> None:
    """Only what save_pretrained wrote is ever replaced."""
    if not folder.exists():
        return
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    others = sorted(set(names) - WRITTEN) if is_saved(folder) else names
    if others:
        raise EdjeError(
            f"save_pretrained: {folder} is a file or holds something other than a saved reranker: "
            f"{', '.join(others[:4])}{' …' if others[4:] else ''}. Give a new folder."
        )


def _check_backbone_stays(checkpoint: Checkpoint, folder: Path) -> None:
    """Check that files that are only named aren't among those that will be replaced."""
    if isinstance(configuration_of(checkpoint).get(BACKBONE), Mapping):
        for _, source in _own_files(backbone_values(checkpoint)):
            if source.resolve().is_relative_to(folder):
                raise EdjeError(
                    f"save_pretrained: the backbone's files are in {folder} itself, where "
                    "with_backbone=False would delete them. Give another folder, or leave "
                    "with_backbone on."
                )


def _put_in_place(making: Path, folder: Path) -> None:
    """Move the new files into place; an existing folder itself stays, with its permissions.

    config.json comes last; until then, the folder doesn't count as a saved one.
    """
    if not folder.exists():
        making.replace(folder)
        return
    for name in [CONFIG, *(WRITTEN - {CONFIG})]:
        if (old := folder / name).is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for made in sorted(making.iterdir(), key=lambda path: path.name == CONFIG):
        made.replace(folder / made.name)


def _write(
    checkpoint: Checkpoint,
    folder: Path,
    metrics: Mapping[str, Any] | None,
    with_backbone: bool,
    stored: torch.dtype,
) -> None:
    config = configuration_of(checkpoint)
    files: dict[str, str] = {}
    if isinstance(config.get(BACKBONE), Mapping):
        config[BACKBONE] = backbone_values(checkpoint)
        copies: dict[Path, str] = {}  # two keys may name one file
        for key, source in list(_own_files(config[BACKBONE])):
            value = str(source.resolve())
            if with_backbone:
                if source not in copies:
                    copies[source] = _copied(source, folder, f"{BACKBONE}/{key}")
                files[key] = copies[source]
                value = ""  # the folder's place is known when it is read
            _set(config[BACKBONE], key.split("."), value)
        for key, name in list(_values(config[BACKBONE])):
            if commit := cached_commit(name):
                _set(config[BACKBONE], key.split("."), f"{name}@{commit}")
        config[BACKBONE] = with_assets(config[BACKBONE])
    _set_num_tokens(config, checkpoint)
    config = _with_short_names(config)
    state = dict(checkpoint.model.state_dict())
    named = named_weights(state, (config.get("joint") or {}).get("pretrained"))
    for one in named:
        for name in one.tensors:
            del state[one.prefix + name]
    state |= {FIRST_STAGE + name: tensor for name, tensor in checkpoint.first_stage.items()}
    weights = save({name: _own(tensor, stored) for name, tensor in state.items()})
    (folder / WEIGHTS).write_bytes(weights)  # the library's writer lets only its owner read it
    fields = checkpoint_fields(checkpoint)["edje"]
    del fields["first_stage"]
    language_model = dict(fields["language_model"])
    fields["language_model"] = {
        **{name: value for name, value in language_model.items() if name != "tokenizer"},
        "config": {
            name: value
            for name, value in json.loads(language_model["config"]).items()
            if name != "_name_or_path"  # a path on the machine that read it
        },
    }
    checkpoint.language_model.tokenizer.save_pretrained(folder)
    about = {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "edje_version": edje.__version__,
        "reranker": fields,
        "named_weights": plain(named),
        "backbone_files": files,
        "run": _without_places(config),
    }
    _write_json(folder / CONFIG, about)
    if metrics is not None:
        _write_json(folder / METRICS, metrics)
    card = model_card(checkpoint, metrics, named)
    replace_file(folder / CARD, card.encode())


def _set_num_tokens(config: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Record the number of tokens of a reranker that was cut to fewer of its nested tokens."""
    adapter, asked = checkpoint.model.adapter, choices_of(checkpoint).num_tokens
    if adapter.budgets and asked != adapter.num_tokens:
        config["scoring"] = {**(config.get("scoring") or {}), "num_tokens": adapter.num_tokens}


def _values(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The sources of a backbone's weights and tokenizers, with their keys."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{before}{name}.")
        elif name in FILES_OF and isinstance(value, str):
            yield f"{before}{name}", value


def _own_files(node: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The local files and folders among these sources, except edje's own."""
    assets = Path(asset("")).resolve()
    for key, value in _values(node):
        path = Path(value).expanduser()
        if value and path.exists() and not path.resolve().is_relative_to(assets):
            yield key, path


def _copied(source: Path, folder: Path, place: str) -> str:
    """Copy a file, or the files of a model's folder; returns its path inside the saved folder."""
    (folder / place).parent.mkdir(exist_ok=True)
    if source.is_file():
        place += source.suffix
        shutil.copyfile(source, folder / place)
        return place
    (folder / place).mkdir()
    for file in source.iterdir():
        if file.is_file() and file.suffix in COPIED:
            shutil.copyfile(file, folder / place / file.name)
    return place


def with_assets(node: Any) -> Any:
    """The values with `${asset:…}` for what comes with edje, wherever edje is installed."""
    if isinstance(node, dict):
        return {key: with_assets(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_assets(value) for value in node]
    assets = asset("")
    if isinstance(node, str) and node.startswith(f"{assets.rstrip('/')}/"):
        return f"${{asset:{Path(node).relative_to(assets).as_posix()}}}"
    return node


def _with_short_names(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with its parts under their registered names."""

    def short(kind: Kind, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        named = {key: short(kind, value) for key, value in node.items()}
        if isinstance(target := named.get("_target_"), str):
            named["_target_"] = short_name(kind, target)
        return named

    return {
        key: short(cast(Kind, key), value) if key in get_args(Kind) else value
        for key, value in config.items()
    }


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration with absolute paths cut to their last names.

    Paths of the backbone that aren't copied stay, because nothing else says where it is.
    """

    def without(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: without(value) for key, value in node.items()}
        if isinstance(node, list):
            return [without(value) for value in node]
        return Path(node).name if isinstance(node, str) and Path(node).is_absolute() else node

    return {key: value if key == BACKBONE else without(value) for key, value in config.items()}


def _set(node: dict[str, Any], keys: list[str], value: str) -> None:
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value


def _numbered(node: Mapping[str, Any]) -> dict[Any, Any]:
    """The mapping with whole numbers as keys, which JSON writes as strings."""
    return {int(key) if key.isdecimal() else key: value for key, value in node.items()}


def _is_first_stage(name: str) -> bool:
    return name.startswith(FIRST_STAGE)


def _own(tensor: Tensor, stored: torch.dtype) -> Tensor:
    dtype = stored if tensor.is_floating_point() and tensor.ndim > 1 else tensor.dtype
    own = tensor.detach().to("cpu", dtype, copy=True)
    return own.contiguous(memory_format=torch.contiguous_format)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _write_json(path: Path, value: Any) -> None:
    replace_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

"""Frozen weights that a saved reranker names instead of containing: in a package or on the hub."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from torch import Tensor

from edje.errors import EdjeError, first_line
from edje.packaged import PACKAGES, PREFIX, packaged_source, sha256_of

FILE = "model.safetensors"
LANGUAGE_MODEL = "joint.language_model."  # prefix, in a reranker's state, of what may be frozen
WORTH_NAMING = 1_000_000  # bytes


@dataclass(frozen=True)
class NamedWeights:
    """Tensors of a reranker that are bit for bit those of another file.

    Args:
        source: `package:<name>`, or the name of a repository on the hub.
        revision: the package's version, or the repository's commit.
        sha256: of the file of weights.
        prefix: what precedes their names in the reranker's state.
        tensors: their names in the file.
    """

    source: str
    revision: str
    sha256: str
    prefix: str
    tensors: tuple[str, ...]


def named_weights(state: Mapping[str, Tensor], pretrained: str | None) -> list[NamedWeights]:
    """The tensors of a state that are unchanged from the pretrained language model, if nameable.

    `pretrained` is the run's name for it. Tensors of a local folder are never named, because the
    folder may disappear.
    """
    found = _origin(pretrained) if pretrained else None
    if found is None:
        return []
    file, source, revision = found
    same, size = [], 0
    with safe_open(file, "pt") as theirs:
        for name in theirs.keys():  # noqa: SIM118
            own = state.get(LANGUAGE_MODEL + name)
            if own is not None and _equal(own.cpu(), theirs.get_tensor(name)):
                same.append(name)
                size += own.numel() * own.itemsize
    if size < WORTH_NAMING:
        return []
    return [NamedWeights(source, revision, sha256_of(file), LANGUAGE_MODEL, tuple(sorted(same)))]


def tensors_of(named: Sequence[NamedWeights], where: str) -> dict[str, Tensor]:
    """The tensors themselves, by their names in the reranker's state.

    Raises:
        EdjeError: a package or a file is missing, or isn't the one that is named.
    """
    return {name: tensor for one in named for name, tensor in _tensors(one, where)}


def plain(named: Sequence[NamedWeights]) -> list[dict[str, Any]]:
    """As plain values, for JSON."""
    return [asdict(one) | {"tensors": list(one.tensors)} for one in named]


def from_plain(values: Sequence[Mapping[str, Any]]) -> list[NamedWeights]:
    """The inverse of `plain`."""
    return [NamedWeights(**{**one, "tensors": tuple(one["tensors"])}) for one in values]


def _tensors(named: NamedWeights, where: str) -> Iterator[tuple[str, Tensor]]:
    file = _file(named, where)
    if (found := sha256_of(file)) != named.sha256:
        raise EdjeError(
            f"{where}: its frozen weights are those of {named.source}, revision {named.revision}, "
            f"whose {FILE} has the SHA-256 {named.sha256}; {file} has {found}. Get that revision."
        )
    with safe_open(file, "pt") as theirs:
        for name in named.tensors:
            yield named.prefix + name, theirs.get_tensor(name)


def _file(named: NamedWeights, where: str) -> Path:
    if folder := packaged_source(named.source):
        return folder / FILE
    try:
        return Path(hf_hub_download(named.source, FILE, revision=named.revision))
    except Exception as error:  # from the hub's client, HTTP or the network
        raise EdjeError(
            f"{where}: its frozen weights are those of {named.source} on the hub, revision "
            f"{named.revision}, which can't be read ({type(error).__name__}: {first_line(error)}). "
            "To work offline, run this first: "
            f"hf download {named.source} --revision {named.revision}."
        ) from error


def _origin(pretrained: str) -> tuple[Path, str, str] | None:
    """The file of weights of a name, with its source and revision."""
    if pretrained.startswith(PREFIX):
        try:
            folder = packaged_source(pretrained)
        except EdjeError:  # not installed: the weights themselves are saved instead
            return None
        assert folder is not None
        return folder / FILE, pretrained, PACKAGES[pretrained.removeprefix(PREFIX)].version
    commit = cached_commit(pretrained)
    cached = try_to_load_from_cache(pretrained, FILE) if commit else None
    return (Path(cached), pretrained, commit) if commit and isinstance(cached, str) else None


def cached_commit(name: str) -> str | None:
    """The commit of a repository's main branch in the hub's cache; None for anything else.

    A name without a revision was read from this commit.
    """
    if Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent.name if isinstance(cached, str) else None


def _equal(own: Tensor, theirs: Tensor) -> bool:
    return own.shape == theirs.shape and own.dtype == theirs.dtype and torch.equal(own, theirs)

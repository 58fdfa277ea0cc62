"""Files in the published format: tensors under the reference implementation's names."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from edje.errors import EdjeError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
FROZEN = ("vision_encoder.", "clip.")  # the dual encoder is in the file too
ADAPTER = "vision_projection."

WORDS = "language_model.bert.embeddings.word_embeddings.weight"
BIAS = "language_model.cls.predictions.bias"
TIED = {  # further names of one tensor
    "text_embeddings.weight": WORDS,
    "language_model.cls.predictions.decoder.weight": WORDS,
    "language_model.cls.predictions.decoder.bias": BIAS,
}

ROUNDING = 0.01  # of a tensor's norm; rounding to 16 bits loses a fifth of that


def read_published(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, read without running pickled code.

    A .pth, .pt or .bin is `{"model": tensors by name, "epoch", "config"}` or the tensors alone;
    a .safetensors holds only the tensors; a tied one may have only one of its names.

    Raises:
        EdjeError: the file can't be read, or holds no such tensors.
    """
    try:
        content = _content(path)
    except Exception as error:
        raise EdjeError(
            f"{path}: can't be read as tensors and plain values ({type(error).__name__}). Expected "
            'a .pth in the published format: {"model": tensors by name, "epoch", "config"}.'
        ) from error
    state = _tensors(content)
    if state is None:
        raise EdjeError(
            f'{path}: holds no tensors by name under "model", so it is not a checkpoint in the '
            "published format. Read checkpoints that edje wrote with Reranker.from_pretrained."
        )
    return _with_all_names(state) if path.suffix == ".safetensors" else state


def is_published(path: Path) -> bool:
    """Whether a file is in the published format; False if it can't be read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return any(name.startswith(ADAPTER) for name in file.keys())  # noqa: SIM118
        state = _tensors(_content(path))
    except Exception:  # any kind; whoever loads the file reports what is wrong
        return False
    return state is not None and any(name.startswith(ADAPTER) for name in state)


def backbone_problems(
    state: Mapping[str, Tensor],
    token_width: int,
    embedding_width: int,
    towers: Mapping[str, Tensor],
) -> Iterator[str]:
    """The ways in which a backbone differs from the one that a checkpoint was trained on.

    Its widths are compared with the heads' shapes. Its weights (`towers`, by transformers' names)
    are compared with those in the file, up to the rounding of 16-bit storage.
    """
    query, local = state.get(ADAPTER + "query"), state.get(ADAPTER + "0.weight")
    read = query if query is not None else local
    if read is not None and read.shape[-1] != token_width:
        yield f"it reads tokens of width {read.shape[-1]}, the backbone's have {token_width}"
    recovered = state.get("text_projection.weight")
    if recovered is not None and len(recovered) != embedding_width:
        yield (
            f"it was trained on embeddings of width {len(recovered)}, the backbone's have "
            f"{embedding_width}"
        )
    for ours, theirs in shared_towers(state, towers).items():
        given, trained = towers[ours], state[theirs]
        if given.shape != trained.shape:
            yield f"{ours} is {tuple(trained.shape)} in it, {tuple(given.shape)} in the backbone"
        elif (given - trained).float().norm() > ROUNDING * given.float().norm():
            yield f"{ours} has other values in it than in the backbone"


def shared_towers(state: Mapping[str, Tensor], towers: Mapping[str, Tensor]) -> dict[str, str]:
    """The backbone's weights that a checkpoint also holds: name in the backbone → in the file."""
    found = {}
    for name, tensor in towers.items():
        places = [f"clip.{name}"]
        if name.startswith("vision_model."):
            places += [f"vision_encoder.{name}", f"vision_encoder.{name.partition('.')[2]}"]
        there = [place for place in places if place in state]
        if there and tensor.is_floating_point() and tensor.numel() > 1:
            found[name] = there[-1]
    return found


def _content(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    # Memory-mapped if the format allows it, so that only the used part of gigabytes is read.
    mapped = zipfile.is_zipfile(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _tensors(content: object) -> dict[str, Tensor] | None:
    """The tensors by name in a file's content; None if the content is something else."""
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not (isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())):
        return None
    return dict(state)


def _with_all_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with every name of its tied tensors; a .safetensors keeps only one name of each."""
    for name, original in TIED.items():
        if original not in state and name in state:
            state[original] = state[name]
    for name, original in TIED.items():
        if name not in state and original in state:
            state[name] = state[original]
    return state

"""Files of the published format: tensors by the reference implementation's names."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from edje.errors import EdjeError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
FROZEN = ("vision_encoder.", "clip.")  # the dual encoder travels along
ADAPTER = "vision_projection."

WORDS = "language_model.bert.embeddings.word_embeddings.weight"
BIAS = "language_model.cls.predictions.bias"
TIED = {  # further names of one tensor
    "text_embeddings.weight": WORDS,
    "language_model.cls.predictions.decoder.weight": WORDS,
    "language_model.cls.predictions.decoder.bias": BIAS,
}

ROUNDING = 0.01  # of a tensor's norm: what 16 bits lose is a fifth of it


def read_published(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, read without running pickled code.

    A .pth, .pt or .bin is `{"model": tensors by name, "epoch", "config"}` or the tensors alone;
    a .safetensors holds the tensors alone, one of the names of a tied one being enough.

    Raises:
        EdjeError: the file can't be read, or holds no such tensors.
    """
    try:
        content = _content(path)
    except Exception as error:
        raise EdjeError(
            f"{path}: can't be read as tensors and plain values ({type(error).__name__}). Expected "
            'a .pth of the published format: {"model": tensors by name, "epoch", "config"}.'
        ) from error
    state = _tensors(content)
    if state is None:
        raise EdjeError(
            f'{path}: holds no tensors by name under "model", so it is not a checkpoint of the '
            "published format. Checkpoints that edje wrote are read by Reranker.from_pretrained."
        )
    return _with_all_names(state) if path.suffix == ".safetensors" else state


def is_published(path: Path) -> bool:
    """Whether a file is of the published format; what can't be read is not."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return any(name.startswith(ADAPTER) for name in file.keys())  # noqa: SIM118
        state = _tensors(_content(path))
    except Exception:  # of any kind: who reads the file in earnest says what is wrong with it
        return False
    return state is not None and any(name.startswith(ADAPTER) for name in state)


def backbone_problems(
    state: Mapping[str, Tensor],
    token_width: int,
    embedding_width: int,
    towers: Mapping[str, Tensor],
) -> Iterator[str]:
    """In what a backbone differs from the one that a checkpoint was trained on.

    Its widths are compared with the heads' shapes; its weights, `towers` by transformers' names,
    with those that the file holds, but for what was lost by storing them in 16 bits.
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
    """The backbone's weights that a checkpoint holds as well: their names here and there."""
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
    # Mapped where the format allows it: of gigabytes only what is used is read.
    mapped = zipfile.is_zipfile(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _tensors(content: object) -> dict[str, Tensor] | None:
    """The tensors by name in what a file holds; None where it holds something else."""
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not (isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())):
        return None
    return dict(state)


def _with_all_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with every name of its tied tensors, of which a .safetensors keeps one each."""
    for name, original in TIED.items():
        if original not in state and name in state:
            state[original] = state[name]
    for name, original in TIED.items():
        if name not in state and original in state:
            state[name] = state[original]
    return state

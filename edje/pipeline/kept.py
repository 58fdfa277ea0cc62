"""Small tensors kept in the cache: computed once, named by a hash of their dependencies."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from edje.durable import new_file, writing_to
from edje.tokens.lock import writer_lock

_HASHED_ROWS = 4096


def kept(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file; if it is missing, those that `compute` returns, now saved in it.

    If another process, such as another rank of the run, writes into the folder, this waits for it.

    Raises:
        EdjeError: the folder can't be written.
    """
    if not path.is_file():
        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with writer_lock(path.parent):
            if not path.is_file():
                computed = compute()
                with writing_to(path.parent), new_file(path) as temporary:
                    save_file(computed, temporary)
    return load_file(path)


class Facts:
    """A hash of what a file's tensors depend on: twelve characters in its name."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def tensor(self, tensor: Tensor) -> None:
        """Add a tensor's numbers, without copying all of them."""
        for part in tensor.split(_HASHED_ROWS):
            self._digest.update(part.contiguous().numpy().tobytes())

    def text(self, text: str) -> None:
        """Add a text."""
        self._digest.update(text.encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()[:12]

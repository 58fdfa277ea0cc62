"""Small tensors kept in the cache: computed once, named by a hash of their dependencies."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edje.durable import new_file, writing_to
from edje.tokens.lock import writer_lock

log = logging.getLogger(__name__)
_HASHED_ROWS = 4096


def kept(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file; if it is missing or damaged, those that `compute` returns, now saved.

    If another process, such as another rank of the run, writes into the folder, this waits for it.

    Raises:
        EdjeError: the folder can't be written.
    """
    if (found := _whole(path)) is not None:
        return found
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with writer_lock(path.parent):
        if (found := _whole(path)) is not None:  # the other process has written it
            return found
        if path.exists():
            log.warning("%s is damaged: it is computed again", path)
        content = save(compute())
        with writing_to(path.parent), new_file(path) as temporary:
            temporary.write_bytes(content)  # not save_file, whose errors of the disk are its own
        return load_file(path)


def _whole(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        return None


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

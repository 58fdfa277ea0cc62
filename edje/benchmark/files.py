"""Tokens in a store on disk, read warm (in the page cache) or cold (dropped from it)."""

from pathlib import Path

import torch

from edje.benchmark.pages import drop_all
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store


class StoredFile(TokenStore):
    """A token store of random 16-bit tokens."""

    def __init__(self, folder: Path, images: int, tokens: int, width: int):
        write_store(
            folder,
            Fingerprint({"benchmark": f"{images} x {tokens} x {width}"}),
            [f"{number:09d}" for number in range(images)],
            make_codec("bf16", tokens, width),
            1,
            lambda rows: (torch.randn(len(rows), tokens, width), torch.zeros(len(rows), 1)),
        )
        super().__init__(folder, TokenStore.open(folder).manifest)
        self.files = [path for path in folder.iterdir() if path.is_file()]

    def forget(self) -> None:
        """Have the system drop the files from memory, so that the next read is from disk.

        Raises:
            EdjeError: some of their pages stay.
        """
        self.__dict__.pop("_cells", None)  # mapped pages would stay
        drop_all(self.files)
        self.read(torch.empty(0, dtype=torch.long))  # maps the files, reads none

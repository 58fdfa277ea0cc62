"""The order in which a mixture of sources is visited, as a function of seed and position."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

Rows = Int64[np.ndarray, "rows"]


@dataclass(frozen=True)
class Block:
    """Rows that are together on disk, such as those of one tar.

    Args:
        first: its first row, counted over all sources.
        rows: the number of its rows.
        passes: how often a pass over the mixture visits each.
        without: rows of it, from 0, that are never visited.
    """

    first: int
    rows: int
    passes: float = 1.0
    without: tuple[int, ...] = ()

    @property
    def visits(self) -> int:
        """Visits of its rows in one pass over the mixture."""
        return round(self.passes * (self.rows - len(self.without)))

    @property
    def visited(self) -> Rows:
        """Its rows without those that are never visited."""
        return np.setdiff1d(np.arange(self.rows), self.without) + self.first

    def draw(self, generator: np.random.Generator) -> Rows:
        """The rows of one pass: all as often as `passes` says, some once more for its fraction."""
        rows = self.visited
        whole, some = divmod(self.visits, len(rows))
        return np.concatenate([np.tile(rows, whole), generator.permutation(rows)[:some]])


class MixtureOrder:
    """Which rows a pass visits, in which order, over all blocks.

    The blocks are shuffled, then the rows within each window of `window` blocks. So reading goes
    from file to file, a window at a time, and neighbours in a file are far apart in training.
    Both are drawn from (seed, pass), so any position of a run can be found without what came
    before; a shuffle buffer over a stream would have to be filled again.
    """

    def __init__(self, blocks: Sequence[Block], window: int, seed: int):
        self.blocks = [block for block in blocks if block.visits]
        self.window = window
        self.seed = seed
        self._ends = np.cumsum([block.visits for block in self.blocks])
        self.rows = int(self._ends[-1]) if self.blocks else 0  # visits of one pass
        self._bounds: tuple[int, Rows, Rows] | None = None  # pass, order of blocks, window starts
        self._drawn: OrderedDict[tuple[int, int], Rows] = OrderedDict()

    @property
    def digest(self) -> str:
        """A digest of all that the order depends on."""
        facts = repr((self.blocks, self.window, self.seed))
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def at(self, number: int, start: int, count: int) -> Rows:
        """Rows `start` to `start + count` of pass `number`."""
        order, starts = self._windows(number)
        first = int(np.searchsorted(starts, start, side="right")) - 1
        parts = []
        while count:
            rows = self._rows_of(number, first, order)[start - starts[first] :][:count]
            parts.append(rows)
            start, count, first = start + len(rows), count - len(rows), first + 1
        return np.concatenate(parts)

    def any_row(self, draws: np.random.Generator) -> int:
        """A row drawn from all visited ones."""
        block = self.blocks[np.searchsorted(self._ends, draws.integers(self.rows), side="right")]
        return int(draws.choice(block.visited))

    def _windows(self, number: int) -> tuple[Rows, Rows]:
        """The order of the blocks in a pass, and where each window of them starts in it."""
        if self._bounds is None or self._bounds[0] != number:
            order = np.random.default_rng((self.seed, 1, number)).permutation(len(self.blocks))
            visits = np.array([self.blocks[block].visits for block in order])
            ends = np.cumsum([0, *visits])
            self._bounds = number, order, ends[: -1 : self.window]
        return self._bounds[1:]

    def _rows_of(self, number: int, window: int, order: Rows) -> Rows:
        """The shuffled rows of a window; the last two are kept, as batches pass through them."""
        key = number, window
        if key not in self._drawn:
            generator = np.random.default_rng((self.seed, 2, number, window))
            blocks = order[window * self.window :][: self.window]
            rows = np.concatenate([self.blocks[block].draw(generator) for block in blocks])
            self._drawn[key] = generator.permutation(rows)
            while len(self._drawn) > 2:
                self._drawn.popitem(last=False)
        return self._drawn[key]

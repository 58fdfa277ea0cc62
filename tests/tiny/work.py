"""Work for `fill_store` without images or weights: the tokens of tests/tiny/stores.py."""

import os
import signal
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from edje.backbones.protocol import ImageEncoding
from edje.data.datamodules.shard_datamodule import ShardBatch
from edje.errors import EdjeError
from edje.pipeline.encoding import Encoder
from edje.pipeline.storage import TowerPrecision
from tests.tiny.stores import FEATURE_WIDTH, IDS, features_of, tokens_of


class TinyWork:
    """Encodes rows by their number; what happens at one row is for the test to say."""

    image_ids: Sequence[str] = IDS
    description = "tiny"
    feature_width = FEATURE_WIDTH
    precision: TowerPrecision = "tf32"

    def __init__(self, row: int = -1, does: str = "nothing"):
        self.row = row
        self.does = does

    def encoder(self) -> Encoder:
        return _Encoder()

    def dataset(self) -> Dataset[ShardBatch]:
        return _Rows(self)

    def happens(self) -> None:
        match self.does:
            case "error":
                raise EdjeError("image 020.jpg is not readable. Mend it.")
            case "interrupt":
                raise KeyboardInterrupt
            case "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)


class _Encoder(Encoder):
    def predict_step(self, batch: ShardBatch, batch_idx: int) -> ImageEncoding:
        rows = batch.inputs.tolist()
        return ImageEncoding(tokens_of(rows), features_of(rows))


class _Rows(Dataset[ShardBatch]):
    def __init__(self, work: TinyWork):
        self.work = work

    def __getitem__(self, rows: range) -> ShardBatch:
        if self.work.row in rows:
            self.work.happens()
        return ShardBatch(rows, torch.tensor(rows))

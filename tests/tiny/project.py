"""A tiny project: components and the configuration files that choose among them."""

from pathlib import Path

PARTS = """
from pathlib import Path
from typing import Literal

Size = int | str

class Adapter:
    def __init__(self, width: int, *, num_tokens: int, dropout: float = 0.0, bias: bool = True):
        self.num_tokens = num_tokens

class Backbone:
    def __init__(self, vision: "Tower", *, layer: Size = "auto", checkpoint: str | None = None):
        self.layer = layer

class Tower:
    def __init__(self, *, checkpoint: str | None, mean: tuple[float, float] = (0.5, 0.5)):
        self.checkpoint = checkpoint

class Data:
    def __init__(self, *, root: Path, split: Literal["val", "test"] = "val",
                 sizes: dict[str, int] | None = None, dev_images: int = 0):
        self.root = root

class Term:
    def __init__(self, *, weight: float = 1.0, form: Literal["softmax", "binary"] = "softmax"):
        self.weight = weight

class Part:
    def __init__(self, *, values: list[int] | None = None):
        self.values = values
"""

CONF = {
    "data/photos": "_target_: edje.sample_parts.Data\nroot: ???\nsplit: val\n",
    "data/drawn": "_target_: edje.sample_parts.Data\nroot: drawn\nsplit: val\n",
    "backbone/tower": """
        _target_: edje.sample_parts.Backbone
        checkpoint: here.pt
        vision:
          _target_: edje.sample_parts.Tower
          checkpoint: ${..checkpoint}
        """,
    "adapter/compression": "_target_: edje.sample_parts.Adapter\nnum_tokens: 4\n",
    "adapter/local": "_target_: edje.sample_parts.Adapter\nnum_tokens: 16\n",
    "joint/tiny": "_target_: edje.sample_parts.Part\n",
    "objective/matching": "# @package objective.matching\n_target_: edje.sample_parts.Term\n",
    "objective/recovery": "# @package objective.recovery\n_target_: edje.sample_parts.Term\n",
    "negatives/in_batch": "_target_: edje.sample_parts.Part\n",
    "loader/default": "_target_: edje.sample_parts.Part\n",
    "optim/adamw": "_target_: torch.optim.AdamW\nlr: 0.1\n",
    "trainer/default": "_target_: lightning.Trainer\nmax_steps: 5\nprecision: bf16-mixed\n",
    "logger/csv": "_target_: edje.sample_parts.Part\n",
    "scoring/default": "_target_: edje.sample_parts.Part\n",
    "benchmark/default": "_target_: edje.sample_parts.Part\n",
    "experiment/bigger": """
        # @package _global_
        defaults:
          - override /adapter: local
        name: bigger
        seed: 7
        """,
}


def write_yaml(path: Path, text: str) -> None:
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line[indent:] for line in lines) + "\n")

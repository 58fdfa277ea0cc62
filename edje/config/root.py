"""The root of the configuration: its keys, and the tasks."""

from dataclasses import dataclass
from typing import Literal

from edje.ranges import PositiveInt

Task = Literal[
    "run",
    "cache",
    "train",
    "evaluate",
    "compress",
    "verify",
    "benchmark",
    "plan",
    "index",
    "serve",
]

TASKS: dict[Task, str] = {  # the module of each task; its run(cfg, folder) does the work
    "run": "edje.tasks.train",
    "cache": "edje.tasks.cache",
    "train": "edje.tasks.train",
    "evaluate": "edje.tasks.evaluate",
    "compress": "edje.tasks.compress",
    "verify": "edje.tasks.verify",
    "benchmark": "edje.tasks.benchmark",
    "plan": "edje.tasks.planning",
    "index": "edje.tasks.adding_pictures",
    "serve": "edje.tasks.serve",
}

PaperKey = Literal[  # values of a row in the paper's tables; recall in percent
    "table",
    "dataset",
    "images",
    "candidates",
    "first_t2i_r1",
    "first_i2t_r1",
    "t2i_r1",
    "i2t_r1",
    "t2i_r5",
    "t2i_r10",
    "t2i_r20",
]

ServeKey = Literal["index", "reranker", "host", "port"]  # of task=serve


class Component:
    """Type of a root key that holds a component: `_target_` and its values."""


Loggers = Component | dict[str, Component] | None  # one, or several by name


@dataclass(frozen=True, kw_only=True)
class RootConfig:
    """The keys at the root of a configuration, and their types."""

    name: str
    task: Task
    seed: int
    checkpoint: str | None
    resume: str | None
    store: str | None
    score: Literal["joint", "residual", "sum"]
    cache_dir: str
    teacher: str | None
    miner: str | None
    checkpoint_every: PositiveInt
    compile_training: str | None
    gradient_checkpointing: bool
    paper: dict[PaperKey, str | float | None] | None
    serve: dict[ServeKey, str | int | None]

    data: Component
    backbone: Component
    adapter: Component
    joint: Component
    objective: dict[str, Component]
    negatives: Component | None
    start: Component
    loader: Component
    optim: Component
    trainer: Component
    logger: Loggers
    storage: Component
    scoring: Component
    benchmark: Component
    index: Component
    engine: Literal["local", "ray"]
    ray: Component

"""Whether the chosen components fit each other, as far as their names show."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from edje.config.problems import Problem, nothing_held_back, untrained_tokens
from edje.config.resolution import plain
from edje.errors import EdjeError

STREAMED = "edje.data.mixture.pretrain.PretrainSource"
STREAM_LOADER = "edje.data.datamodules.stream_datamodule.StreamDataModule"
FITTED = "edje.backbones.aligned.AlignedBackbone"
TRAINING = ("run", "train")
WHOLE_SET_STARTS = {  # computed from the stored tokens of all training images
    "edje.pipeline.start.CanonicalStart": "canonical",
    "edje.pipeline.start.ContrastiveStart": "contrastive",
}
SCORING = ("run", "evaluate", "compress")


def check_choices(cfg: DictConfig) -> None:
    """Refuse components that are valid alone but don't work together.

    Raises:
        EdjeError: names the choices, and what to take instead.
    """
    problems = list(misfits(plain(cfg, "", [])))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(f"Choices that don't fit each other:{lines}")


def misfits(tree: dict[str, Any]) -> Iterator[Problem]:
    """The problems of a composed tree, choice by choice."""
    task, data = tree.get("task"), tree.get("data") or {}
    yield from late_misfits(tree)
    compiled = tree.get("compile_training")
    if task in TRAINING and tree.get("gradient_checkpointing") and compiled is not None:
        what = (
            f": with compile_training={compiled}, dropout would be drawn differently when layers "
            "run again. Take compile_training=null, or gradient_checkpointing=false."
        )
        yield Problem("gradient_checkpointing", what)
    if data.get("_target_") != STREAMED:
        if task in TRAINING and target(tree, "loader") == STREAM_LOADER:
            what = " streams a mixture, but data is a cached set. Take loader=default."
            yield Problem("loader", what)
        return
    if task == "cache":
        what = (
            "=cache: a mixture for pretraining is never read as a whole. Choose another data, or "
            "task=train, which encodes it on the fly."
        )
        yield Problem("task", what)
    if data.get("evaluated") is None and task in SCORING:
        what = f"=null: task={task} scores a cached set. Choose one with data@data.evaluated=coco."
        yield Problem("data.evaluated", what)
    if task not in TRAINING:
        return
    if not any((data.get("sources") or {}).values()):
        yield Problem("data.sources", ": all are left out. Give at least one to train on.")
    if target(tree, "loader") != STREAM_LOADER:
        what = (
            ": it reads stored tokens (neighbours are mined among them), and a mixture for "
            "pretraining has none. Take loader=stream."
        )
        yield Problem("loader", what)
    if target(tree, "backbone") == FITTED:
        what = (
            ": its first stage is fitted on the stored features of the whole training set, and a "
            "mixture for pretraining has none. Take a dual encoder, as backbone=siglip2_b16_384."
        )
        yield Problem("backbone", what)
    if start := WHOLE_SET_STARTS.get(str(target(tree, "start"))):
        what = (
            f"={start}: it is computed from the stored tokens of the whole training set, and a "
            "mixture for pretraining has none. Take start=fresh or start=checkpoint."
        )
        yield Problem("start", what)
    if tree.get("miner") is not None:
        what = (
            ": it looks for similar images among stored tokens, and a mixture for pretraining has "
            "none. Take miner=null."
        )
        yield Problem("miner", what)
    evaluated = data.get("evaluated") or {}
    if evaluated.get("_target_") == STREAMED:
        yield Problem("data.evaluated", ": a mixture can't be scored. Take a cached source.")


def late_misfits(tree: dict[str, Any]) -> Iterator[Problem]:
    """Problems that would otherwise show only at the first batch, or after all training."""
    task, data = tree.get("task"), tree.get("data") or {}
    if isinstance(seed := tree.get("seed"), int) and seed < 0:
        yield Problem("seed", f"={seed}: expected a number from 0, for the random generators.")
    scoring, loader = tree.get("scoring") or {}, tree.get("loader") or {}
    patience = scoring.get("patience")
    if task not in TRAINING:
        return
    if patience is not None and not scoring.get("dev_every"):
        what = (
            f"={patience} counts scores on dev, and scoring.dev_every=0 makes none. Set "
            "scoring.dev_every, or leave it out."
        )
        yield Problem("scoring.patience", what)
    is_mixture, is_new = data.get("_target_") == STREAMED, tree.get("resume") is None
    holding = (data.get("evaluated") or {"dev_images": 0}) if is_mixture else data
    if holding.get("dev_images") == 0:
        score, every = str(tree.get("score")), scoring.get("dev_every") or 0
        if is_mixture and not is_new:
            every = 0  # an earlier version began it, and scored nothing
        yield from nothing_held_back(score, every, is_mixture=is_mixture)
    adapter = tree.get("adapter") or {}
    asked, most = scoring.get("num_tokens"), adapter.get("num_tokens")
    budgets = adapter.get("budgets")
    if isinstance(budgets, list) and most is not None and is_new:
        yield from untrained_tokens(budgets, most)
    if task == "run" and asked is not None:
        if not budgets:
            what = (
                f"={asked}: the adapter is trained only with all of its tokens. Use "
                "adapter=compression_nested, or scoring.num_tokens=null."
            )
            yield Problem("scoring.num_tokens", what)
        elif most is not None and asked > most:
            what = f"={asked}: the adapter has only {most} tokens. Ask for no more."
            yield Problem("scoring.num_tokens", what)
    pairs, neighbours = loader.get("batch_size"), loader.get("neighbours") or 0
    most = loader.get("mined_pool")
    if most is not None and neighbours > most:
        what = f"={neighbours}: they are drawn from {most} similar images. Raise loader.mined_pool."
        yield Problem("loader.neighbours", what)
    if pairs is None:
        return
    if pairs % (neighbours + 1):
        what = (
            f"={pairs} is not a multiple of loader.neighbours + 1 = {neighbours + 1}. Choose a "
            "multiple, so that every anchor keeps its neighbours."
        )
        yield Problem("loader.batch_size", what)
    count = (tree.get("negatives") or {}).get("count")
    contrasting = {"matching", "distillation"} & {
        name for name, term in (tree.get("objective") or {}).items() if term is not None
    }
    devices = (tree.get("trainer") or {}).get("devices")
    if count is not None and contrasting and devices == 1 and pairs <= count:
        what = (
            f"={pairs}: a pair of a batch can't have negatives.count={count} others as negatives. "
            "Raise loader.batch_size, or lower negatives.count."
        )
        yield Problem("loader.batch_size", what)


def target(tree: dict[str, Any], key: str) -> object:
    """The dotted name of a component's class."""
    return (tree.get(key) or {}).get("_target_")

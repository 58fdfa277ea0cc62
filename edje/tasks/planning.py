"""Plan: the disk, memory and GPU-hours that a run needs, before anything large is made."""

import json
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig
from rich.table import Table

from edje.data.mixture.pretrain import PretrainSource
from edje.data.sources.source import Source
from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification
from edje.models.joint_options import JointOptions
from edje.pipeline.model_sizes import WORDS, Towers, configuration, counted_sizes
from edje.pipeline.plan import Plan, Work, plan, shown
from edje.quiet import quiet_libraries
from edje.tasks.building import objectives_from
from edje.tasks.console import show
from edje.tasks.wiring import plain

HUGGING_FACE = "edje.backbones.huggingface.HuggingFaceBackbone"
PRETRAINED = "edje.language_model.pretrained_language_model"


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=plan`: the needs of `task=run` with the same options; writes plan.json and shows it.

    Raises:
        EdjeError: a model's sizes aren't known here, or the data's sizes are in no option and its
            files are missing.
    """
    quiet_libraries()
    notes = [
        f"captions of {WORDS} word pieces, [CLS] and [SEP] included (assumed)",
        "images as files, the mixture's tars and activations of evaluation are not counted",
        "kept for the backward pass: in bf16, no attention matrices; autocast keeps some more",
    ]
    if cfg.backbone._target_ != HUGGING_FACE or cfg.joint._target_ != PRETRAINED:
        raise EdjeError(
            "task=plan only supports a CLIP or SigLIP of transformers (backbone=siglip2_l16_384) "
            f"with a pretrained language model (joint=minilm), got {cfg.backbone._target_} and "
            f"{cfg.joint._target_}."
        )
    backbone = configuration(cfg.backbone.pretrained, "backbone.pretrained", notes)
    language_model = configuration(cfg.joint.pretrained, "joint.pretrained", notes)
    if cfg.joint.num_layers is not None:
        language_model.num_hidden_layers = cfg.joint.num_layers
    adapter = plain(cfg.adapter)
    work = work_of(cfg)
    if "teacher" in work.parts:
        notes.append("the teacher: a local adapter of every token before the same language model")
    sizes = counted_sizes(
        Towers(backbone, cfg.backbone.get("keep_class_token", False)),
        language_model,
        AdapterSpecification(adapter.pop("_target_"), adapter),
        JointOptions.among(
            {key: plain(cfg.joint).get(key) for key in JointOptions.__annotations__}
        ),
        cfg.storage.raw_codec,
        cfg.storage.compressed_codec,
    )
    planned = plan(work, sizes, notes)
    (folder / "plan.json").write_text(json.dumps(planned.report(), indent=2) + "\n")
    show(plan_table(planned))


def work_of(cfg: DictConfig) -> Work:
    """The amount of work in a run of this configuration.

    Raises:
        EdjeError: the data's sizes are in no option, and its files are missing.
    """
    source: Source = instantiate(cfg.data)
    streamed = isinstance(source, PretrainSource)
    evaluated = counts_of(source, source.split)
    dev = source.dev_images, source.dev_images * evaluated[1] // evaluated[0]
    train = dev if streamed else counts_of(source, "train")
    batch, trainer = cfg.loader.batch_size, cfg.trainer
    terms = objectives_from(cfg.objective).values()
    return Work(
        *train,
        *evaluated,
        candidates=min(cfg.scoring.candidates, *evaluated),
        steps=trainer.max_steps,
        pairs=batch * trainer.accumulate_grad_batches,
        batch=batch,
        devices=num_devices(trainer.devices) * trainer.get("num_nodes", 1),
        negatives=0 if cfg.negatives is None else instantiate(cfg.negatives).count,
        parts=frozenset().union(*(term.needs for term in terms)),
        streamed=streamed,
        recomputed=cfg.gradient_checkpointing,
    )


def counts_of(source: Any, split: str) -> tuple[int, int]:
    """Numbers of images and captions of a split, from its options or else from its files."""
    if isinstance(source, PretrainSource) and source.evaluated is not None:
        source = source.evaluated
    sizes, captions = (getattr(source, name, None) for name in ("split_sizes", "caption_counts"))
    if sizes and captions and split in sizes and split in captions:
        return sizes[split], captions[split]
    found = source.read(split)
    return len(found.images), len(found.captions)


def num_devices(given: Any) -> int:
    """Number of a trainer's devices per node, whatever this machine has."""
    if isinstance(given, int) and given > 0:
        return given
    if isinstance(given, ListConfig):
        return len(given)
    raise EdjeError(f"trainer.devices={given}: task=plan needs a number of devices.")


def plan_table(planned: Plan) -> Table:
    """The lines of a plan by kind, with the sum of each kind."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("", "arithmetic"):
        table.add_column(name)
    sums = {
        "disk": f"{shown('disk', planned.total('disk'))} on disk",
        "memory": f"{shown('memory', planned.total('memory'))} on each device",
        "compute": (
            f"{shown('compute', planned.total('compute'))}: {planned.gpu_hours:,.1f} GPU-hours at "
            f"{planned.flops_per_second / 1e12:.0f} TFLOP/s (assumed)"
        ),
    }
    for kind, text in sums.items():
        for line in planned.lines:
            if line.kind == kind:
                table.add_row(line.what, line.arithmetic)
        table.add_row(f"[bold]{kind}[/bold]", f"[bold]{text}[/bold]")
        table.add_row()
    for note in planned.notes:
        table.add_row("[dim]note[/dim]", f"[dim]{note}[/dim]")
    return table

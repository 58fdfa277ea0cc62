"""Claims about what a configuration leaves out: a run's config.yaml says it nevertheless."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from edje.config.defaults import fill_defaults
from edje.config.signatures import signature_of
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


def filled(**nodes: object) -> DictConfig:
    return fill_defaults(OmegaConf.create(dict(nodes)))


def test_every_value_that_yaml_may_give_to_ours_is_there_and_what_is_given_stays() -> None:
    target = "edje.training.optimisation.Optimisation"
    optim = filled(optim={"_target_": target, "lr": 0.5, "betas": [0.1, 0.2]}).optim
    assert set(optim) == {"_target_", *signature_of(target).settable()}
    assert (optim.lr, optim.betas, optim.warmup_steps) == (0.5, [0.1, 0.2], 100)


def test_components_within_components_are_filled_and_tuples_are_lists() -> None:
    vision = {"_target_": "edje.backbones.timm_backbone.TimmBackbone", "model": "x"}
    backbone = {"_target_": "edje.backbones.aligned.AlignedBackbone", "vision": vision}
    node = filled(backbone=backbone).backbone
    assert node.epochs == 120 and list(node.vision.mean) == [0.5, 0.5, 0.5]


def test_what_the_run_supplies_and_what_has_no_default_is_left_out() -> None:
    node = filled(adapter={"_target_": "edje.models.adapters.LocalAdapter"}).adapter
    assert "facts" not in node and node.hidden_width == 8192
    start = filled(start={"_target_": "edje.pipeline.start.CheckpointStart"}).start
    assert "path" not in start


def test_code_of_others_and_names_that_are_gone_keep_what_they_are_given() -> None:
    nodes = {
        "trainer": {"_target_": "lightning.Trainer", "max_steps": 3},
        "data": {"_target_": "edje.nowhere.Thing", "root": "x"},
    }
    assert filled(**nodes) == nodes


def test_a_run_that_leaves_a_value_out_writes_it_down(command: Command, tasks: Calls) -> None:
    assert command() == 0
    cfg, folder = tasks[-1]
    text = OmegaConf.load(folder / "config.yaml")
    assert cfg.adapter == text.adapter
    assert text.adapter == {
        "_target_": "edje.sample_parts.Adapter", "num_tokens": 4, "dropout": 0.0, "bias": True
    }  # fmt: skip


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_an_earlier_version_wrote_without_defaults_goes_on_in_its_folder(
    command: Command, tasks: Calls, kept: bool
) -> None:
    sweep = ("-m", "seed=1", "hydra.sweep.dir=runs/seeds")
    assert command(*sweep) == 0
    config = Path("runs/seeds/0/config.yaml")
    text = config.read_text().replace("  dropout: 0.0\n", "")
    config.write_text(text if kept else text.replace("num_tokens: 4", "num_tokens: 5"))
    assert command(*sweep) == (0 if kept else 1)


@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_sweep_file_reaches_a_value_that_no_option_file_shows(
    command: Command, conf: Path, tasks: Calls, prefix: str
) -> None:
    params = f'{{{prefix}adapter.dropout: "0.1,0.2", seed: "1,2"}}'
    text = f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n"
    write_yaml(conf / "sweep" / "dropout.yaml", text)
    assert command("+sweep=dropout") == 0
    tried = [(cfg.adapter.dropout, cfg.seed) for cfg, _ in tasks]
    assert tried == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]

"""Every option of every group and every experiment composes and validates."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from edje import __version__
from edje.backbones.loading import load_backbone
from edje.config.choices import misfits
from edje.config.defaults import fill_defaults
from edje.config.locations import conf_folder, register_resolvers
from edje.config.resolution import plain
from edje.config.root import PaperKey, RootConfig
from edje.config.validate import problems_of
from edje.inference.run_choices import facts_of

CONF = conf_folder()
ROOT = Path(__file__).parents[2]
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
OPTIONS = [
    (group, file.relative_to(CONF / group).with_suffix("").as_posix())
    for group in GROUPS
    for file in sorted((CONF / group).rglob("*.yaml"))
]
ROWS = [option for group, option in OPTIONS if group == "experiment" and "paper/" in option]
LABELS = [option for group, option in OPTIONS if group == "paper" and option != "none"]


@pytest.mark.parametrize(("group", "option"), [("", ""), *OPTIONS])
def test_the_option_composes_and_validates(group: str, option: str) -> None:
    register_resolvers()
    chosen = f"{group}=[{option}]" if group in ("objective", "logger") else f"{group}={option}"
    chosen = f"+{chosen}" if group == "sweep" else chosen
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [chosen] if group else [])
    problems = [p for p in problems_of(cfg) if "???" not in str(p)]  # for the user to give
    assert not problems, "\n".join(map(str, problems))


@cache
def composed(option: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", [f"experiment={option}"])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_paper_is_labelled_and_composes_for_training_and_for_evaluating(
    row: str,
) -> None:
    cfg = fill_defaults(composed(row).copy())
    assert not [p for p in problems_of(cfg) if "???" not in str(p)]
    for cfg.task in ("run", "train", "evaluate"):
        assert not list(misfits(plain(cfg, "", [])))
    assert cfg.name == row.replace("/", "_")
    assert set(cfg.paper) <= set(get_args(PaperKey)) and cfg.paper.table
    evaluated = cfg.data.get("evaluated") or cfg.data
    assert (cfg.paper.dataset, cfg.paper.candidates) == (evaluated.name, cfg.scoring.candidates)
    assert cfg.paper.images in (evaluated.split_sizes.test, None)


def test_photographs_start_from_half_the_mean_cosine_or_from_any_other_start() -> None:
    own = {"_target_": "edje.pipeline.start.ContrastiveStart", "mean_share": 0.5}
    assert composed("photos").start == own
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", ["experiment=photos", "start=checkpoint", "start.path=photos"])
    assert not [p for p in problems_of(cfg) if "???" not in str(p)]
    assert cfg.start == {"_target_": "edje.pipeline.start.CheckpointStart", "path": "photos"}


def test_the_rows_have_the_published_figures_and_null_where_none_is_known() -> None:
    figures = {row.removeprefix("paper/"): composed(row).paper for row in ROWS}
    assert set(LABELS) - set(figures) == {"flickr30k", "coco"}  # what several rows share
    both = {row: (label.get("t2i_r1"), label.get("i2t_r1")) for row, label in figures.items()}
    assert both["siglip2_l16_384"] == (87.8, 96.5) and both["clip_b16"] == (76.8, 91.1)
    assert both["tokens_64"] == (86.9, 96.4) and both["tokens_128"] == (87.1, 96.3)
    assert both["coco_local"] == (64.9, 81.0) and both["no_distillation"] == (83.8, None)
    assert both["tokens_32"] == both["tokens_256"] == both["local_bert_base"] == (None, None)
    assert figures["dfn_l14"].first_t2i_r1 == 75.1 and figures["dfn_l14"].first_i2t_r1 == 90.0
    assert figures["full_set_coco"].t2i_r20 == 68.1 and figures["full_set_coco"].t2i_r1 is None


def test_a_misspelt_figure_of_a_label_is_told() -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", ["paper=tokens_64", "+paper.t2i_r2=80.0"])
    (problem,) = problems_of(cfg)
    assert "paper" in str(problem) and "t2i_r1" in str(problem)


SWEEPS = [option for group, option in OPTIONS if group == "sweep"]


def jobs_of(chosen: list[str]) -> tuple[DictConfig, list[DictConfig]]:
    """What Hydra is told by a sweep file, and the configurations of its jobs."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("run", chosen, return_hydra_config=True).hydra
        params = [f"{key}={value}" for key, value in hydra.sweeper.params.items()]
        parsed = OverridesParser.create().parse_overrides(params)
        ((first, second, *others),) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        return hydra, [compose("run", [*chosen, *job]) for job in (first, second, *others)]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_jobs_of_a_sweep_file_compose_with_the_shapes_and_lie_in_a_folder_of_its_name(
    sweep: str,
) -> None:
    hydra, jobs = jobs_of(["experiment=shapes", f"+sweep={sweep}"])
    assert (hydra.mode, hydra.sweep.dir) == (RunMode.MULTIRUN, f"runs/shapes/{sweep}")
    assert next(iter(hydra.sweeper.params)) == "++seed"  # the outermost
    assert len({OmegaConf.to_yaml(cfg) for cfg in jobs}) == len(jobs)
    for cfg in jobs:
        assert not problems_of(cfg), "\n".join(map(str, problems_of(cfg)))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_jobs_of_a_sweep_files_own_command_fit_their_backbones(sweep: str) -> None:
    file = (CONF / "sweep" / f"{sweep}.yaml").read_text()
    ((command, seeds),) = re.findall(r"^#   python run\.py -m (.*) (seed=.*)$", file, re.MULTILINE)
    assert seeds == "seed=0,1,2"
    jobs = jobs_of(command.replace("<folder>", "there").split())[1]
    facts = facts_of(load_backbone("shapes")).beside(width=8)
    for cfg in jobs:
        assert not problems_of(cfg), "\n".join(map(str, problems_of(cfg)))
        if cfg.backbone.pretrained == composed("shapes").backbone.pretrained:
            instantiate(cfg.adapter, facts)  # an error if it makes more tokens than there are
        else:  # the shipped teacher reads the tokens of its own
            assert cfg.teacher is None and cfg.start.get("path") is None


def test_every_group_is_a_root_key_and_explained_by_help() -> None:
    text = (CONF / "hydra" / "help" / "edje.yaml").read_text()
    for group in GROUPS:
        assert f"\n    {group} " in text, f"--help does not explain {group}"
        assert group in RootConfig.__dataclass_fields__ or group in ("experiment", "sweep")


IMPORT = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("adapter.num_token=8", "Did you mean adapter.num_tokens?"),
        ("trainer.precision=bf16-mixt", "Did you mean bf16-mixed?"),
        ("joint.attention=spda", "Did you mean sdpa?"),
        ("backbone=shape", "Did you mean backbone=shapes?"),
        ("experiment=paper/tokens_46", "Did you mean experiment=paper/tokens_64?"),
    ],
)
def test_run_py_stops_at_a_mistake_before_anything_large_is_imported(
    argument: str, message: str
) -> None:
    start = os.times()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", argument],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    end = os.times()  # of the processor, so that others' work on the machine doesn't count
    spent = end.children_user + end.children_system - start.children_user - start.children_system
    assert spent < 6  # 1.3 s on a 2-core AMD EPYC (Zen 5)
    assert result.returncode == 1 and message in result.stderr
    assert "Traceback" not in result.stderr
    imported = set(IMPORT.findall(result.stderr))
    assert "hydra" in imported and not imported & {"torch", "lightning", "transformers"}


def test_help_the_configuration_and_the_version_can_be_shown() -> None:
    for arguments, expected in (
        (["--help"], "Groups"),
        (["--cfg", "job"], "_target_"),
        (["--version"], f"edje {__version__}"),
        (["index", "--help"], "--into"),
    ):
        result = subprocess.run(
            [sys.executable, "run.py", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0 and expected in result.stdout
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["csv", "tensorboard"]),
        ("logger=csv", ["csv"]),
        ("logger=[wandb,csv]", ["wandb", "csv"]),
        ("logger=none", None),
    ],
)
def test_loggers_are_a_list(chosen: str | None, names: list[str] | None) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [chosen] if chosen else [])
    assert (cfg.logger and list(cfg.logger)) == names
    assert not problems_of(cfg)

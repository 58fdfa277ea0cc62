"""Claims about former names: saved ones are read under the present ones, typed ones are told."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from edje.config.continued import with_present
from edje.config.locations import conf_folder, register_resolvers
from edje.config.overrides import refuse_former_names
from edje.config.saved import from_text, to_text
from edje.config.signatures import UnknownTargetError, signature_of
from edje.config.validate import problems_of
from edje.errors import EdjeError
from edje.installed import asset
from edje.renames import (
    KEYS,
    MOVED_CLASSES,
    MOVED_MODULES,
    STARTS,
    present_configuration,
    present_key,
    present_override,
    present_target,
)
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]
ROOT = Path(__file__).parents[2]
START = "edje.pipeline.start"

# What each former override is now, by hand.
OVERRIDES = {
    "store_codec=int8": "storage.raw_codec=int8",
    "evaluation.codec=int4": "storage.compressed_codec=int4",
    "evaluation.candidates=50": "scoring.candidates=50",
    "evaluation.precision=fp32": "scoring.precision=fp32",
    "evaluation.compile=true": "scoring.compile=true",
    "evaluation.num_tokens=2,4": "scoring.num_tokens=2,4",
    "evaluation=default": "scoring=default",
    "writing.batch_size=8": "storage.batch_size=8",
    "writing.join=true": "storage.join=true",
    "writing.precision=bf16": "storage.tower_precision=bf16",
    "writing=default": "storage=default",
    "loader.precision=fp32": "loader.tower_precision=fp32",
    "compile=inductor": "compile_training=inductor",
    "initial=null": "start=fresh",
    "initial=canonical": "start=canonical",
    "initial=contrastive": "start=contrastive",
    "initial=runs/a": "start=checkpoint start.path=runs/a",
}


@pytest.mark.parametrize(("former", "present"), OVERRIDES.items())
@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_former_override_is_an_error_that_says_the_present_one(
    former: str, present: str, prefix: str
) -> None:
    key = former.partition("=")[0]
    with pytest.raises(EdjeError) as refused:
        refuse_former_names(["seed=1", f"{prefix}{former}"])
    assert str(refused.value).startswith(f"{key} is ")
    assert str(refused.value).endswith(f" now: give {present}.")
    assert present_override(former) == present
    refuse_former_names(present.split())
    assert present_override(present) == present


def test_every_former_key_of_the_table_has_such_an_override() -> None:
    tried = {override.partition("=")[0] for override in OVERRIDES}
    assert set(KEYS) - tried == set()
    assert {str(word or "null") for word in STARTS} <= {
        override.removeprefix("initial=") for override in OVERRIDES
    }


def test_all_former_names_of_a_command_are_told_at_once(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "evaluation.num_tokens=2,4", "store_codec=int8", "~initial", "seed=1") == 1
    error = capsys.readouterr().err
    assert "evaluation.num_tokens is scoring.num_tokens now: give scoring.num_tokens=2,4." in error
    assert "store_codec is storage.raw_codec now: give storage.raw_codec=int8." in error
    assert "initial is start now: give start=fresh, canonical or contrastive, or start=" in error
    assert not tasks and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store_codec: int8", "store_codec is storage.raw_codec now: give storage.raw_codec=int8."),
        ("compile: inductor", "compile is compile_training now: give compile_training=inductor."),
        ("initial: null", "initial is start now: give start=fresh."),
        ("initial: runs/a", "initial is start now: give start=checkpoint start.path=runs/a."),
        (
            "evaluation: {codec: int8, candidates: 5}",
            "evaluation.codec is storage.compressed_codec now: give storage.compressed_codec=int8.",
        ),
        ("evaluation: {candidates: 5}", "give scoring.candidates=5."),
        ("writing: {join: true}", "writing.join is storage.join now: give storage.join=true."),
        ("loader: {precision: fp32}", "give loader.tower_precision=fp32."),
        ("defaults:\n  - override /writing: quick", "writing is storage now: give storage="),
        ("defaults:\n  - /evaluation: quick", "evaluation is scoring now: give scoring=quick."),
        ("cache_dir: ${store_codec}", "It is ${storage.raw_codec} now."),
        (
            "hydra: {mode: MULTIRUN, sweeper: {params: {evaluation.num_tokens: '2,4'}}}",
            "evaluation.num_tokens is scoring.num_tokens now",
        ),
        (
            "scoring: {_target_: edje.tasks.scoring.Evaluation}",
            "it is edje.pipeline.scoring.Scoring now",
        ),
    ],
)
def test_an_experiment_of_the_user_s_own_with_a_former_name_is_told_the_present_one(
    command: Command, conf: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    write_yaml(conf / "experiment" / "own.yaml", f"# @package _global_\n{text}\n")
    assert command("experiment=own") == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start=canonica"], "start=canonica: no such option. The options of start: canonical,"),
        (["start=canonica"], "Did you mean start=canonical?"),
        (["start=checkpoint"], "start.path has no value yet (???). Give it on the command line: "),
        (
            ["start.path=runs/a"],
            "start.path=runs/a is unknown: FreshStart takes nothing. It goes with start=checkpoint",
        ),
    ],
)
def test_a_start_that_is_mistyped_or_lacks_its_path_is_told_so(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command(*arguments) == 1
    assert said in capsys.readouterr().err


def former_configuration(**changes: Any) -> dict[str, Any]:
    """What a run of 0.1.0 saved, with every former key."""
    tree: dict[str, Any] = {
        "loader": {
            "_target_": "edje.data.stream_datamodule.StreamDataModule",
            "window": 16,
            "precision": "bf16",
        },
        "writing": {
            "_target_": "edje.tasks.writing.Writing",
            "batch_size": 8,
            "join": False,
            "precision": "fp32",
        },
        "evaluation": {
            "_target_": "edje.tasks.scoring.Evaluation",
            "codec": "int8",
            "candidates": 5,
            "precision": "fp32",
            "compile": False,
        },
        "trainer": {"_target_": "lightning.Trainer", "precision": "32-true"},
        "teacher": "runs/t",
        "initial": None,
        "store_codec": "fp16",
        "compile": "inductor",
    }
    return tree | changes


def test_a_saved_configuration_has_its_values_under_the_present_names() -> None:
    present = present_configuration(former_configuration())
    assert present == {
        "loader": {
            "_target_": "edje.data.datamodules.stream_datamodule.StreamDataModule",
            "window": 16,
            "tower_precision": "bf16",
        },
        "storage": {
            "_target_": "edje.pipeline.storage.Storage",
            "batch_size": 8,
            "join": False,
            "tower_precision": "fp32",
            "compressed_codec": "int8",
            "raw_codec": "fp16",
        },
        "scoring": {
            "_target_": "edje.pipeline.scoring.Scoring",
            "candidates": 5,
            "precision": "fp32",
            "compile": False,
        },
        "trainer": {"_target_": "lightning.Trainer", "precision": "32-true"},
        "teacher": "runs/t",
        "start": {"_target_": f"{START}.FreshStart"},
        "compile_training": "inductor",
    }
    assert present_configuration(present) == present


@pytest.mark.parametrize(
    ("initial", "start"),
    [
        (None, {"_target_": f"{START}.FreshStart"}),
        ("canonical", {"_target_": f"{START}.CanonicalStart"}),
        ("contrastive", {"_target_": f"{START}.ContrastiveStart"}),
        ("runs/a", {"_target_": f"{START}.CheckpointStart", "path": "runs/a"}),
        ("${teacher}", {"_target_": f"{START}.CheckpointStart", "path": "${teacher}"}),
        ("${miner}", {"_target_": f"{START}.FreshStart"}),
    ],
)
def test_what_initial_was_is_a_start(initial: str | None, start: dict[str, str]) -> None:
    tree = former_configuration(initial=initial, miner=None)
    assert present_configuration(tree)["start"] == start


def test_a_codec_saved_before_writing_had_choices_makes_a_storage_of_them() -> None:
    present = present_configuration({"store_codec": "int8"})
    assert present == {
        "storage": {"_target_": "edje.pipeline.storage.Storage", "raw_codec": "int8"}
    }
    assert signature_of(present["storage"]["_target_"]).settable()


def test_interpolations_kept_as_comments_come_back_at_their_present_places() -> None:
    cfg = OmegaConf.create(
        former_configuration(initial="${teacher}", name="${store_codec}-${evaluation.candidates}")
    )
    cfg.evaluation.codec = "${store_codec}"
    cfg.loader.precision = "${writing.precision}"
    again = from_text(to_text(cfg), "here")
    assert again.name == "fp16-5" and again.start.path == "runs/t"
    again.merge_with_dotlist(
        ["storage.raw_codec=int4", "scoring.candidates=7", "teacher=b", "storage.tower_precision=x"]
    )
    assert (again.name, again.start.path) == ("int4-7", "b")
    assert again.storage.compressed_codec == "int4" and again.loader.tower_precision == "x"


def test_beside_a_checkpoint_the_number_formats_are_its_own_and_the_rest_the_present_run_s() -> (
    None
):
    """As store_codec and evaluation.codec were, and writing was not."""
    stored = from_text(OmegaConf.to_yaml(OmegaConf.create(former_configuration())), "here")
    storage = {
        **{"_target_": "edje.pipeline.storage.Storage", "raw_codec": "bf16"},
        **{"compressed_codec": "bf16", "batch_size": 64, "tower_precision": "tf32"},
    }
    cfg = OmegaConf.create({"storage": storage, "scoring": {"candidates": 50}})
    merged = with_present(stored, cfg, ["storage.batch_size", "storage.tower_precision"])
    assert (merged.storage.raw_codec, merged.storage.compressed_codec) == ("fp16", "int8")
    assert (merged.storage.batch_size, merged.storage.tower_precision) == (64, "tf32")
    assert merged.storage.join is False and merged.scoring.candidates == 5
    whole = with_present(stored, cfg, ["storage"])
    assert whole.storage == storage


def test_a_sweep_of_an_earlier_version_goes_on_by_its_command(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds")
    assert command(*sweep) == 0
    config = Path("runs/seeds/0/config.yaml")
    tree = OmegaConf.to_container(OmegaConf.load(config))
    assert isinstance(tree, dict)
    storage = tree.pop("storage")
    tree["store_codec"], tree["compile"] = storage.pop("raw_codec"), tree.pop("compile_training")
    tree["evaluation"] = tree.pop("scoring") | {"codec": storage.pop("compressed_codec")}
    tree["writing"] = storage | {"precision": storage.pop("tower_precision")}
    tree["initial"] = None
    del tree["start"], tree["paper"]
    links = "".join(f"{line}\n" for line in config.read_text().splitlines() if line[0] == "#")
    config.write_text(OmegaConf.to_yaml(OmegaConf.create(tree)) + links)
    figures = {"t2i": {"reranked": {"recall@1": {"value": 51.5}}, "first_stage": {}}}
    (config.parent / "metrics.json").write_text(json.dumps(figures))
    capsys.readouterr()
    assert command(*sweep) == 0
    assert "runs/seeds/0: finished before" in capsys.readouterr().out
    assert [cfg.seed for cfg, _ in tasks] == [1, 2, 2]  # the second has no metrics


@pytest.mark.parametrize("target", sorted(MOVED_CLASSES))
def test_a_moved_class_is_found_and_its_former_name_told(target: str) -> None:
    present = present_target(target)
    module, _, name = present.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert present_target(present) == present
    with pytest.raises(UnknownTargetError, match=f"it is {re.escape(present)} now"):
        signature_of(target)


@pytest.mark.parametrize("module", sorted(MOVED_MODULES))
def test_a_moved_module_is_there(module: str) -> None:
    assert importlib.import_module(MOVED_MODULES[module])
    assert present_target(f"{module}.Some") == f"{MOVED_MODULES[module]}.Some"


@pytest.mark.parametrize("former", sorted(KEYS))
def test_no_former_key_is_one_of_today_and_every_present_one_is(former: str) -> None:
    register_resolvers()
    changes = ["loader=stream"] if former.startswith("loader.") else []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("run", changes)
    tree = OmegaConf.to_container(cfg)
    for key, there in ((former, False), (present_key(former), True)):
        node: Any = tree
        parts = key.split(".")
        for part in parts[:-1]:
            node = node.get(part) or {}
        assert (parts[-1] in node) == there, key
    assert not problems_of(cfg)


# Whatever a user reads or runs; of it only the table may name a former key.
READ = ("README.md", "Makefile", "conf", "docs", "experiments", "notebooks", "edje")
TABLE = ROOT / "edje" / "renames.py"
OF_EVALUATION = "codec|candidates|batch_size|precision|dev_every|shuffle_tokens|num_tokens|examples"
FORMER = re.compile(
    rf"""\bevaluation(\.({OF_EVALUATION}|compile)\b|=[\w\[])
    |\bwriting(\.(batch_size|num_workers|join|precision)\b|=\w)
    |\bstore_codec\b
    |\bloader\.precision\b
    |(?<!,[ ])(?<![\w.])initial=[\w<{{$]  # no argument in Python
    |(?<![\w.])compile=(inductor|null)
    |^(evaluation|writing|initial|store_codec):
    |\b(evaluation|writing)/default""",
    re.VERBOSE,
)


def written() -> list[Path]:
    kinds = {".md", ".py", ".yaml", ".sh", ".ipynb", ".csv", ".json", ""}
    found = [path for name in READ for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return [path for path in found if path.is_file() and path.suffix in kinds and path != TABLE]


def test_no_former_key_is_left_in_what_a_user_reads_or_runs() -> None:
    left = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in written()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if FORMER.search(line)
    ]
    assert not left, "\n".join(left)
    for former in (*OVERRIDES, "evaluation: {candidates: 5}", "initial: null", "`store_codec`"):
        assert FORMER.search(former) or FORMER.search(f"python run.py {former}"), former
    for present in OVERRIDES.values():
        assert not FORMER.search(f"python run.py {present}"), present


def test_the_configuration_of_the_shipped_teacher_names_what_there_is() -> None:
    """It was made by a version before those whose formats are kept among the tests."""
    content = torch.load(asset("shapes/teacher.ckpt"), weights_only=True)
    cfg = from_text(content["edje_config"], "teacher")
    targets = [node["_target_"] for node in nodes_of(OmegaConf.to_container(cfg))]
    assert len(targets) > 10
    for target in targets:
        signature_of(target)


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for inner in tree.values():
            yield from nodes_of(inner)

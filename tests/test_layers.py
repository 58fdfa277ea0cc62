"""Who may import whom, read from the source of every module (also imports inside functions)."""

import re
import sys
import tomllib

import pytest

from tests.package_source import MODULES, PACKAGE, dotted, imports

# What each layer may import of edje, besides itself. Nothing reaches back.
MAY_IMPORT = {
    "records": set(),
    "ranges": {"errors"},
    "errors": set(),
    "identity": set(),
    "captions": set(),
    "cores": set(),
    "quiet": set(),
    "garbage": set(),
    "renames": set(),
    "installed": {"errors"},
    "packaged": {"errors"},
    "part_kinds": set(),
    "registry": {"errors", "part_kinds"},
    "durable": {"errors"},
    "pretrained_head": set(),
    "language_model": {
        "ranges", "records", "errors", "packaged", "pretrained_head", "models.joint_options",
        "models.suitability", "backbones.pretrained",
    },
    "backbones": {
        "records", "errors", "identity", "renames", "installed", "packaged", "quiet", "registry",
    },
    "models": {"ranges", "records", "errors"},
    "objectives": {"records", "errors"},
    "retrieval": {"ranges", "records", "errors"},
    "tokens": {"ranges", "records", "errors", "durable", "identity", "backbones.protocol"},
    "images": {"errors"},
    "data": {
        "ranges", "records", "errors", "captions", "cores", "durable", "images", "tokens",
        "parallel.environment", "retrieval.exact",
    },
    "parallel": {"errors", "quiet", "durable"},
    "training": {"records", "errors", "models", "objectives", "retrieval", "parallel"},
    "inference": {
        "ranges", "records", "errors", "captions", "cores", "durable", "identity", "images",
        "installed", "renames", "backbones", "language_model", "models", "retrieval.fusion",
        "retrieval.exact", "retrieval.calibration", "tokens", "packaged", "quiet", "registry",
        "part_kinds",
    },
    "index": {
        "ranges", "errors", "identity", "images", "inference", "backbones.pretrained",
        "registry", "data.mixture.tar_members",
        "retrieval.exact", "tokens.codec", "tokens.lock",
    },
    "serving": {"errors", "captions", "images", "index", "inference"},
    "benchmark": {"ranges", "records", "errors", "models", "inference", "tokens"},
    "analysis": {
        "records", "errors", "ranges", "captions", "durable", "retrieval", "images", "renames",
    },
    "config": {
        "ranges", "errors", "durable", "renames", "installed", "inference.checkpoint",
        "inference.location", "inference.reference", "registry", "part_kinds",
        "parallel.environment", "parallel.slurm",
    },
    "cli": {
        "config", "errors", "parallel.environment", "parallel.agreement", "parallel.helping",
        "parallel.slurm", "sweeps",
    },
    "command": {"cli", "config.terminal", "errors", "garbage", "index", "serving"},
    "__main__": {"command"},
    "sweeps": {"config", "errors"},
    "pipeline": {
        "ranges", "records", "errors", "captions", "durable", "identity", "images",
        "language_model", "backbones", "tokens", "data", "models", "objectives", "training",
        "retrieval", "inference", "parallel", "config.problems", "registry", "part_kinds",
        "benchmark.flops", "packaged",
    },
    "tasks": {
        "quiet", "records", "errors", "captions", "durable", "identity", "language_model",
        "backbones", "tokens", "data", "models", "objectives", "training", "retrieval", "inference",
        "benchmark", "analysis", "config", "parallel", "pipeline", "registry", "part_kinds",
        "index",
        "serving",
    },
}  # fmt: skip

# Files, strings and the libraries that read them stay out of the tensor layers.
WORLD = {"pathlib", "os", "io", "json", "csv", "shutil", "PIL", "pandas", "pyarrow", "datasets"}
WORLD |= {"tokenizers", "safetensors", "yaml"}


def inside(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_imports_only_what_lies_below_it(module: str) -> None:
    layer = module.split(".")[0]
    assert layer in MAY_IMPORT, f"edje/{layer} is new: say here what it may import"
    for name in imports(MODULES[module]):
        if name == "edje" or not name.startswith("edje."):
            continue
        name = name.removeprefix("edje.")
        allowed = {layer, *MAY_IMPORT[layer]}
        known = name.split(".")[0] in MAY_IMPORT  # else a name of edje/__init__.py
        assert not known or any(inside(name, other) for other in allowed), (
            f"edje.{module} imports edje.{name}; {layer} may import {sorted(MAY_IMPORT[layer])}"
        )


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_layers(module: str) -> None:
    layer = module.split(".")[0]
    used = {name.split(".")[0] for name in imports(MODULES[module])}
    if layer not in ("config", "cli", "tasks", "sweeps"):
        assert not used & {"hydra", "omegaconf"}
    trains = ("training", "tasks", "pipeline", "parallel")
    if layer not in trains and not module.startswith("data.datamodules."):
        assert not used & {"lightning", "pytorch_lightning"}
    if layer in ("models", "objectives", "retrieval"):
        assert not used & WORLD, f"{layer}: tensors and records in and out"
        names = {name.rpartition(".")[2] for name in imports(MODULES[module])}
        assert not {name for name in names if "Tokenizer" in name}


def test_objects_are_wired_together_in_tasks_only() -> None:
    for module, path in MODULES.items():
        names = set(imports(path))
        if "hydra.utils.instantiate" in names or "hydra.utils.call" in names:
            assert module.startswith("tasks."), f"edje.{module} instantiates"


def test_loading_and_scoring_need_neither_hydra_nor_lightning() -> None:
    served = ("inference", "backbones", "tokens", "index", "serving")
    reached, waiting = set(), [m for m in MODULES if m.split(".")[0] in served]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        for name in imports(MODULES[module]):
            top = name.split(".")[0]
            assert top not in ("hydra", "omegaconf", "lightning"), f"edje.{module} imports {name}"
            for known in MODULES:
                if name.startswith("edje.") and inside(name.removeprefix("edje."), known):
                    waiting += [known] if known not in reached else []


OPERATORS = "inference.cpu.operators"  # the one file that may use what torch keeps to itself


@pytest.mark.parametrize("module", MODULES)
def test_private_operators_of_torch_are_used_in_one_file(module: str) -> None:
    names = set(imports(MODULES[module])) | set(dotted(MODULES[module]))
    private = {
        name
        for name in names
        if name.startswith("torch.")
        and any(re.match(r"ops$|_(?!_)", part) for part in name.split("."))
    }
    assert bool(private) == (module == OPERATORS), f"edje.{module} uses {sorted(private)}"


@pytest.mark.parametrize("module", MODULES)
def test_kernels_are_used_by_the_names_of_their_folder(module: str) -> None:
    if not inside(module, "inference.cpu"):
        for name in imports(MODULES[module]):
            if name.startswith("edje.inference.cpu."):
                within = name.removeprefix("edje.")
                assert within.count(".") == 2 and within not in MODULES, name


def test_backbones_models_objectives_and_retrieval_are_blind_to_each_other() -> None:
    layers = {"backbones", "models", "objectives", "retrieval"}
    for layer in layers:
        assert not MAY_IMPORT[layer] & layers


def test_no_two_files_have_one_name_and_none_that_of_a_library() -> None:
    names = [path.stem for path in MODULES.values() if path.stem != "__init__"]
    assert not {name for name in names if names.count(name) > 1}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    needed = {name for extra in project["optional-dependencies"].values() for name in extra}
    needed |= set(project["dependencies"])
    libraries = {re.split(r"[^\w-]", name)[0].replace("-", "_") for name in needed} - {"edje"}
    known = {"compression"}  # an adapter in 0.1.0's checkpoints; in the standard library since 3.14
    assert not set(names) & (libraries | sys.stdlib_module_names - known)

"""Claims about what pyproject.toml declares."""

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_layers import MODULES, imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS = {"pydantic_core"}  # of pydantic, which fixes its version
OPTIONAL = {"sentence_transformers"}  # a lane of the benchmark, left out where it isn't installed


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_what_is_imported_is_declared() -> None:
    imported = {
        name.partition(".")[0]
        for path in [*MODULES.values(), ROOT / "run.py"]
        for name in imports(path)
    }
    others = imported - set(sys.stdlib_module_names) - OPTIONAL - PARTS - {"edje", "__future__"}
    owners = packages_distributions()
    declared = names(PROJECT["dependencies"])
    missing = {name for name in others if not declared & names(owners.get(name, [name]))}
    assert not missing, f"imported, but not among the dependencies: {sorted(missing)}"

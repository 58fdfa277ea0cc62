"""Claims about what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import edje
from edje.tokens.remote import EXTRAS
from tests.package_source import MODULES, imports

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOL = DECLARED["project"], DECLARED["tool"]
PARTS = {"pydantic_core"}  # of pydantic, which fixes its version
OPTIONAL = {
    "sentence_transformers": "benchmark",
    "optuna": "sweep",
    "eccv_caption": "coco",
    "pillow_heif": "heif",
    "lancedb": "index",
    "ray": "ray",
    "lance": "ray",
}  # of which extra, inside the function that needs it
DISTRIBUTIONS = {"lance": "pylance"}  # where they have other names
OF_SERVING = {"fastapi", "starlette", "anyio", "uvicorn", "prometheus_client"}  # edje/serving alone
COMMAND = "serving.serve_command"  # by which the others of edje/serving are imported, when it runs


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_what_is_imported_is_declared() -> None:
    imported = {
        name.partition(".")[0]
        for path in [*MODULES.values(), ROOT / "run.py"]
        for name in imports(path)
    }
    others = imported - set(sys.stdlib_module_names) - set(OPTIONAL) - OF_SERVING - PARTS
    others -= {"edje", "__future__"}
    owners = packages_distributions()
    declared = names(PROJECT["dependencies"])
    missing = {name for name in others if not declared & names(owners.get(name, [name]))}
    assert not missing, f"imported, but not among the dependencies: {sorted(missing)}"


def test_what_only_some_need_is_an_extra_and_imported_where_it_is_needed() -> None:
    for module, extra in OPTIONAL.items():
        distribution = DISTRIBUTIONS.get(module, canonicalize_name(module))
        assert distribution in names(PROJECT["optional-dependencies"][extra])
        for path in MODULES.values():
            assert not outside_functions(path) & {module}, f"{path} imports {module} on import"


def test_what_serving_needs_is_an_extra_and_imported_by_its_command_alone() -> None:
    extra = names(PROJECT["optional-dependencies"]["serve"])
    assert {"fastapi", "uvicorn", "prometheus-client"} <= extra  # which bring the others
    for module, path in MODULES.items():
        if module == COMMAND or not module.startswith("serving."):
            assert not outside_functions(path) & OF_SERVING, module
        if not module.startswith("serving."):
            assert not {name.partition(".")[0] for name in imports(path)} & OF_SERVING, module
            if module not in ("command", "tasks.serve"):
                assert not any(name.startswith("edje.serving") for name in imports(path)), module


def outside_functions(path: Path) -> set[str]:
    """The packages that are imported as soon as a file is."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    found = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return found


def test_an_extra_that_a_message_recommends_is_declared() -> None:
    extras = {
        extra
        for path in [*MODULES.values(), *(ROOT / "conf").rglob("*.yaml"), ROOT / "README.md"]
        for extra in re.findall(r"edje\[(\w+)\]", path.read_text())
    } | set(EXTRAS.values())
    assert {"siglip", "s3", "benchmark"} <= extras <= set(PROJECT["optional-dependencies"])


def test_the_version_has_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert TOOL["hatch"]["version"]["path"] == "edje/__init__.py"
    assert str(Version(edje.__version__)) == edje.__version__

"""Claims about `import edje`: what it gives, and that it costs nothing until it is used."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edje

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    """What a fresh interpreter prints, somewhere else than in the checkout's folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_face_is_what_it_promises() -> None:
    assert {
        "Reranker", "ImageIndex", "TokenStore", "load_backbone", "load_reference_checkpoint",
        "evaluate", "EdjeError", "Question", "__version__",
    } <= set(edje.__all__)  # fmt: skip
    assert sorted(edje.__all__) == dir(edje)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(edje.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == edje._HOMES


@pytest.mark.parametrize("name", ["analysis", "pipeline"])
def test_analysis_and_pipeline_need_no_import_of_their_own(name, monkeypatch) -> None:
    monkeypatch.delitem(vars(edje), name, raising=False)
    assert getattr(edje, name) is import_module(f"edje.{name}")


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="'edje' has no attribute 'reranker'"):
        edje.reranker  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'reranker'"):
        exec("from edje import reranker")


def test_importing_it_takes_less_than_a_tenth_of_a_second_and_imports_no_library() -> None:
    """Processor time of the import alone, the least of three: other work on the machine doesn't
    count, the interpreter's start neither."""
    code = (
        "import sys, time; before, start = set(sys.modules), time.process_time(); import edje; "
        "took = time.process_time() - start; dir(edje); edje.__version__; "
        "others = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(took, *(others - set(sys.stdlib_module_names)))"
    )
    runs = [python(code).split() for _ in range(3)]
    assert all(imported == ["edje"] for _, *imported in runs)
    assert min(float(took) for took, *_ in runs) < 0.1


@pytest.mark.packaging
def test_all_names_resolve_without_any_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {
        canonicalize_name(Requirement(one).name)
        for group in project["optional-dependencies"].values()
        for one in group
    } - {"edje"}
    blocked = sorted(
        module
        for module, owners in packages_distributions().items()
        if extra & {canonicalize_name(owner) for owner in owners} and module != "google"
    )
    assert "pytest" in blocked  # so that they were found
    code = (
        f"import sys; sys.modules |= dict.fromkeys({[*blocked, 'google.protobuf']}); import edje; "
        "from importlib import import_module; "
        "homes = {name: import_module(home) for name, home in edje._HOMES.items()}; "
        "print(*(name for name in homes if getattr(edje, name) is getattr(homes[name], name)))"
    )
    assert python(code).split() == list(edje._HOMES)

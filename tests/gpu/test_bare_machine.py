"""The checks and figures of a GPU import on a machine that has little more than torch."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "experiments/speed")  # where imports are looked for
THERE = {
    *("torch", "torchvision", "lightning", "transformers", "timm", "pyarrow", "xxhash", "rich"),
    *("torchmetrics", "fsspec", "huggingface-hub", "safetensors", "numpy", "pillow"),  # by those
    *("tokenizers", "tqdm", "pyyaml"),  # by transformers
}
IMPORTED_AS = {"hydra-core": "hydra"}


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w-]+", line) for line in requirements)
    return {match[0] for match in found if match is not None}


def lacking() -> set[str]:
    """What the project depends on and neither a bare machine nor the wheels have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = names(project["dependencies"] + project["optional-dependencies"]["dev"])
    listed = (ROOT / "experiments/speed/gpu-wheels.txt").read_text().splitlines()
    return {IMPORTED_AS.get(name, name) for name in ours - names(listed) - THERE - {"edje"}}


def file_of(module: str) -> Path | None:
    """A module of this project."""
    places = (folder / module.replace(".", "/") for folder in FOLDERS)
    files = (file for at in places for file in (at.with_suffix(".py"), at / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def imported(file: Path) -> Iterator[str]:
    """Modules that a file imports when it is imported itself, and the packages they lie in."""
    for node in ast.parse(file.read_text()).body:
        full: list[str] = []
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in full:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def test_checks_and_figures_need_no_more_than_a_bare_machine_and_the_wheels_have():
    forbidden = lacking()
    assert {"datasets", "hydra", "pandas", "pydantic"} <= forbidden
    waiting = [*sorted((ROOT / "tests/gpu").glob("*.py")), ROOT / "tests/conftest.py"]
    waiting.append(ROOT / "experiments/speed/gpu.py")
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        for module in imported(file):
            assert module not in forbidden, f"{file.relative_to(ROOT)} imports {module}"
            other = file_of(module)
            if other is not None and other not in seen:
                seen.add(other)
                waiting.append(other)
    assert ROOT / "edje/tokens/store.py" in seen and ROOT / "tests/tiny/words.py" in seen

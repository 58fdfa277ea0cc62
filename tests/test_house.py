"""Where tests are: in the folders of what they test, and what is tiny comes from tests/tiny."""

import ast
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
TINY = HERE / "tiny"

# Folders that mirror no folder, neither of the package nor of the checkout.
OWN_FOLDERS = {
    "tiny": "what tests are made of: models, stores, worlds",
    "formats": "what each version has written",
    "gpu": "the parts of several folders, at real sizes",
}
# Of names that are a module's too: the folder, and why it is another than the module's.
ELSEWHERE = {
    "test_cli.py": ("config", "works on the tiny project of that folder"),
    "test_renames.py": ("config", "works on the tiny project of that folder"),
    "test_documents.py": (".", "is about the checkout's documents"),
}


def files() -> list[Path]:
    return sorted(file for file in HERE.rglob("*.py") if "__pycache__" not in file.parts)


def folders() -> set[str]:
    """Of all tests, as paths below tests/."""
    found = {file.parent.relative_to(HERE).as_posix() for file in files()} - {"."}
    return {name for name in found if name.split("/")[0] not in OWN_FOLDERS}


@pytest.mark.parametrize("folder", sorted(folders()))
def test_a_folder_of_tests_is_one_of_the_package_or_of_the_checkout(folder: str) -> None:
    assert (ROOT / "edje" / folder).is_dir() or (ROOT / folder).is_dir(), (
        f"tests/{folder}: neither edje/{folder} nor {folder} is there. Move its tests, or say in "
        "OWN_FOLDERS what it is."
    )


def test_a_test_that_is_named_like_a_module_is_in_its_folder() -> None:
    places: dict[str, set[str]] = {}
    for module in (ROOT / "edje").rglob("*.py"):
        folder = module.parent.relative_to(ROOT / "edje").as_posix()
        places.setdefault(f"test_{module.name}", set()).add(folder)
    for name, (folder, _) in ELSEWHERE.items():
        assert name in places and (HERE / folder / name).is_file(), f"{name} is no exception"
        places[name].add(folder)
    for file in files():
        folder = file.parent.relative_to(HERE).as_posix()
        of_its_folder = file.stem == f"test_{file.parent.name}"
        if folder.split("/")[0] not in OWN_FOLDERS and file.name in places and not of_its_folder:
            right = sorted(places[file.name])
            assert folder in right, f"tests/{folder}/{file.name} belongs to {right}"


@cache
def imports(file: Path) -> list[tuple[str, str]]:
    """Modules and the names that are imported from them, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return found


def test_tokenizers_and_models_are_made_in_one_place() -> None:
    """A configuration of transformers is what a model is made of."""
    for file in files():
        if file.is_relative_to(TINY):
            continue
        for module, name in imports(file):
            library = module.split(".")[0]
            made = library == "tokenizers" or (
                library == "transformers"
                and name.endswith(("Config", "Tokenizer", "TokenizerFast"))
                and not name.startswith("Auto")
            )
            assert not made, f"{file.relative_to(ROOT)} imports {name}: take one of tests/tiny"


def test_no_test_imports_from_a_file_of_tests() -> None:
    """What two files need is a helper; imported from a test file it would be run with it."""
    for file in files():
        for module, name in imports(file):
            last = name if (ROOT / module.replace(".", "/") / f"{name}.py").is_file() else module
            shared = last.split(".")[-1]
            assert not (module.startswith("tests") and shared.startswith(("test_", "conftest"))), (
                f"{file.relative_to(ROOT)} imports {module}.{name}: move it to a helper"
            )


def test_helpers_have_one_name() -> None:
    """`tests.` and the path; another way of importing would load a helper twice."""
    tops = {path.stem for path in HERE.iterdir() if path.suffix == ".py" or path.is_dir()}
    tops -= {path.name for path in ROOT.iterdir()}  # such as experiments/
    for file in files():
        for module, _ in imports(file):
            assert module.split(".")[0] not in tops, f"{file.relative_to(ROOT)}: tests.{module}"

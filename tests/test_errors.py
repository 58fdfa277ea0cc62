"""An error reaches the process that waits for it: it is pickled whole."""

import ast
import builtins
import pickle
from importlib import import_module
from typing import Any

import pytest

from edje.errors import EdjeError, TrainingInterrupted
from tests.package_source import MODULES

# What an error is made of, where that isn't a message alone.
GIVEN: dict[str, tuple[Any, ...]] = {
    "RefusedError": (EdjeError("refused"),),
    "StoppedError": (TrainingInterrupted(15, "python run.py resume=here"),),
    "TrainingInterrupted": (15, "python run.py resume=here"),
    "UnknownPicture": ("1 of 2 ids are not there", ["gone"]),
    "UnknownTargetError": ("edje.nothing names nothing", ["edje.near"]),
}


def errors_of_the_package() -> dict[str, str]:
    """Each error by its name, with its module; found in the source, as imports take seconds."""
    classes = {
        node.name: (module, {base.id for base in node.bases if isinstance(base, ast.Name)})
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    known = {
        name
        for name, one in vars(builtins).items()
        if isinstance(one, type) and issubclass(one, BaseException)
    }
    errors: dict[str, str] = {}
    while more := {n: m for n, (m, bases) in classes.items() if bases & known and n not in errors}:
        errors |= more
        known |= more.keys()
    return errors


ERRORS = errors_of_the_package()


def test_every_error_with_parts_of_its_own_is_one_of_the_package() -> None:
    assert GIVEN.keys() < ERRORS.keys() and "EdjeError" in ERRORS


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_sent_to_another_process_with_all_that_it_holds(name: str) -> None:
    kind = getattr(import_module(f"edje.{ERRORS[name]}"), name)
    error = kind(*GIVEN.get(name, ("a message",)))
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind and str(found) == str(error)
    assert repr(vars(found)) == repr(vars(error))

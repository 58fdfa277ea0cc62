"""Source code read without running it: modules, and where a name in them is defined.

Importing Lightning alone takes seconds, but a misspelt key should be reported at once. So
modules are parsed and their imports followed by name.
"""

import ast
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """A parsed module: its name, whether it is a package, and what its top level defines."""

    name: str
    is_package: bool
    definitions: dict[str, ast.stmt]
    stars: tuple[str, ...]  # modules whose names it takes with `import *`

    def absolute(self, statement: ast.ImportFrom) -> str:
        """The full name of the module that a `from … import` in this module reads."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        drop = statement.level - self.is_package
        base = parts[: len(parts) - drop] if drop else parts
        return ".".join([*base, *([statement.module] if statement.module else [])])


@dataclass(frozen=True)
class Definition:
    """The statement that defines a name, and its module."""

    module: Module
    statement: ast.stmt


def locate(name: str) -> ModuleSpec | None:
    """The spec of a module, without importing its packages."""
    top, *rest = name.split(".")
    spec: ModuleSpec | None
    loaded = sys.modules.get(top)
    if loaded is not None and hasattr(loaded, "__path__"):
        spec = ModuleSpec(top, None, origin=getattr(loaded, "__file__", None), is_package=True)
        spec.submodule_search_locations = list(loaded.__path__)
    else:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            return None
    path = top
    folders = _folders(spec)
    for part in rest:
        if folders is None:
            return None
        path = f"{path}.{part}"
        try:
            spec = PathFinder.find_spec(path, folders)
            inside = _folders(spec)
        except KeyError:  # a namespace within a namespace looks for it in sys.modules
            inside = [str(Path(folder, part)) for folder in folders]
            spec = ModuleSpec(path, None, is_package=True)
            spec.submodule_search_locations = inside
        folders = inside
    return spec


def _folders(spec: ModuleSpec | None) -> list[str] | None:
    """Where a package's modules are; None for no package."""
    if spec is None or spec.submodule_search_locations is None:
        return None
    return list(spec.submodule_search_locations)


@cache
def parse(file: str, name: str, is_package: bool) -> Module:
    """Parse a module's top level, including the branches of its `if` and `try`."""
    definitions: dict[str, ast.stmt] = {}
    stars: list[str] = []
    module = Module(name, is_package, definitions, ())

    def read(statements: list[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.ClassDef() | ast.FunctionDef():
                    definitions[statement.name] = statement
                case ast.Assign():
                    for target in statement.targets:
                        if isinstance(target, ast.Name):
                            definitions[target.id] = statement
                case ast.AnnAssign(target=ast.Name(id=target_name)):
                    definitions[target_name] = statement
                case ast.Import() | ast.ImportFrom():
                    for alias in statement.names:
                        if alias.name == "*" and isinstance(statement, ast.ImportFrom):
                            stars.append(module.absolute(statement))
                        else:
                            definitions[alias.asname or alias.name.split(".")[0]] = statement
                case ast.If():
                    read(statement.orelse)
                    read(statement.body)
                case ast.Try():
                    for handler in statement.handlers:
                        read(handler.body)
                    read(statement.body)

    read(ast.parse(Path(file).read_text(encoding="utf-8")).body)
    return Module(name, is_package, definitions, tuple(stars))


def module_named(name: str) -> Module | None:
    """The parsed module of that name; None if it has no source to read."""
    spec = locate(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return parse(spec.origin, name, spec.submodule_search_locations is not None)


def find(module: Module, name: str, depth: int = 0) -> Definition | None:
    """The original definition of a module's name, found through its imports."""
    statement = module.definitions.get(name)
    if depth > 20:
        return None
    if isinstance(statement, ast.ImportFrom):
        alias = next(a for a in statement.names if (a.asname or a.name) == name)
        source = module_named(module.absolute(statement))
        return find(source, alias.name, depth + 1) if source else None
    if statement is not None:
        return Definition(module, statement)
    for star in module.stars:
        source = module_named(star)
        found = find(source, name, depth + 1) if source else None
        if found is not None:
            return found
    return None

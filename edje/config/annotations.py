"""What an annotation in source code means, found without importing the code.

Importing Lightning alone takes seconds; a misspelt key should be told at once. So the signatures
of components are read from their source: modules are parsed, never run, and the names in an
annotation are followed through imports and aliases to the few simple types that YAML can hold.
"""

import ast
import importlib
import sys
import types
from dataclasses import dataclass
from functools import cache, reduce
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from typing import Any, Literal, Optional, Union

SIMPLE = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "None": None,
    "object": Any,
}


@dataclass(frozen=True)
class Module:
    """A parsed module: its name, whether it is a package, and what its top level defines."""

    name: str
    is_package: bool
    definitions: dict[str, ast.stmt]
    stars: tuple[str, ...]  # modules whose names it takes over with `import *`

    def absolute(self, statement: ast.ImportFrom) -> str:
        """The full name of the module that a `from … import` of this module reads."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        drop = statement.level - self.is_package
        base = parts[: len(parts) - drop] if drop else parts
        return ".".join([*base, *([statement.module] if statement.module else [])])


@dataclass(frozen=True)
class Definition:
    """A name's defining statement, and the module it stands in."""

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
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec


@cache
def parse(file: str, name: str, is_package: bool) -> Module:
    """Read one module's top level, the branches of its `if` and `try` included."""
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
    """The parsed module of that name; None where there is no source to read."""
    spec = locate(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return parse(spec.origin, name, spec.submodule_search_locations is not None)


def find(module: Module, name: str, depth: int = 0) -> Definition | None:
    """Where a module's name is really defined, followed through imports."""
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


def meaning(node: ast.expr | None, module: Module, depth: int = 0) -> Any:
    """The type that an annotation stands for; `Any` where its source can't tell."""
    if node is None or depth > 20:
        return Any
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return meaning(ast.parse(text, mode="eval").body, module, depth + 1)
        case ast.Name(id=name):
            return meaning_of_name(name, module, depth)
        case ast.Attribute():
            return standard(ast.unparse(node), module)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return union([meaning(left, module, depth), meaning(right, module, depth)])
        case ast.Subscript(value=value, slice=index):
            return subscribed(meaning(value, module, depth), index, module, depth)
    return Any


def meaning_of_name(name: str, module: Module, depth: int) -> Any:
    """The type behind a name: a simple one, one of the standard library, an alias, a class."""
    statement = module.definitions.get(name)
    if statement is None and name in SIMPLE:
        return SIMPLE[name]
    if isinstance(statement, ast.ImportFrom):
        source = module.absolute(statement)
        if source.split(".")[0] in sys.stdlib_module_names or source == "typing_extensions":
            original = next(a.name for a in statement.names if (a.asname or a.name) == name)
            return getattr(importlib.import_module(source), original, Any)
    found = find(module, name)
    match found:
        case Definition(module=home, statement=ast.Assign(value=value)):
            return meaning(value, home, depth + 1)
        case Definition(module=home, statement=ast.AnnAssign(value=value)):
            return meaning(value, home, depth + 1)
        case Definition(statement=ast.ClassDef(bases=bases) as definition):
            if any("Enum" in ast.unparse(base) for base in bases):
                return Any
            return opaque(definition.name)
    return Any


def standard(dotted: str, module: Module) -> Any:
    """A type written with its module (`typing.Any`), where that is of the standard library."""
    first, *rest = dotted.split(".")
    statement = module.definitions.get(first)
    if isinstance(statement, ast.Import) and first in sys.stdlib_module_names:
        thing: Any = importlib.import_module(first)
        for part in rest:
            thing = getattr(thing, part, Any)
        return thing
    return opaque(rest[-1]) if rest else Any


@cache
def opaque(name: str) -> type:
    """A stand-in for a class that no YAML value can be."""
    return type(name, (), {"__opaque__": True})


def union(members: list[Any]) -> Any:
    """The union of types; `Any` takes all."""
    if Any in members:
        return Any
    return reduce(or_, [types.NoneType if m is None else m for m in members])


def subscribed(origin: Any, index: ast.expr, module: Module, depth: int) -> Any:
    """`origin[index]` for the generic types that YAML can hold."""
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    if origin is Literal:
        try:
            return Literal[tuple(ast.literal_eval(item) for item in items)]
        except ValueError:
            return Any
    if getattr(origin, "__opaque__", False) or origin is Any:
        return origin
    parts = [
        ...
        if isinstance(item, ast.Constant) and item.value is ...
        else meaning(item, module, depth)
        for item in items
    ]
    if origin is Union:
        return union(parts)
    if origin is Optional:
        return union([*parts, None])
    if getattr(origin, "__name__", "") in ("Callable", "type", "Type"):
        return opaque(origin.__name__)
    if getattr(origin, "__name__", "") in ("Annotated", "Final", "ClassVar"):
        return parts[0]
    try:
        return origin[tuple(parts)]
    except TypeError:
        return Any

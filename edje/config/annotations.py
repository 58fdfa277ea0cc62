"""What an annotation in source code means, found without importing the code.

The names in an annotation are followed through imports and aliases to the few simple types that
YAML can hold; classes that YAML can't hold become opaque stand-ins.
"""

import ast
import importlib
import sys
import types
from functools import cache, reduce
from operator import or_
from typing import Any, Literal, Optional, Union

from edje.config.source_code import Definition, Module, find

KNOWN = ("typing_extensions", "edje.ranges")  # whose names mean what they mean there
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
        if source.split(".")[0] in sys.stdlib_module_names or source in KNOWN:
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

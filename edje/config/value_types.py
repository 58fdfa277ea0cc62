"""Whether a plain YAML value has the type of a signature, and what a type is called."""

import sys
import types
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import to_json

UNIONS = (Union, types.UnionType)
UNREAD = object()  # a type that only an import can show


def yaml_type(annotation: Any) -> Any:
    """An annotation with a placeholder for every class that no YAML value can be."""
    origin, inner = get_origin(annotation), get_args(annotation)
    kind = annotation if origin is None else origin
    if annotation in (None, Any, ...) or origin is Literal:
        return annotation
    if origin is Annotated:
        return annotation if yaml_type(inner[0]) is inner[0] else yaml_type(inner[0])
    if origin in UNIONS:
        members = [yaml_type(member) for member in inner]
        return Any if Any in members else reduce(or_, members)
    if not isinstance(kind, type) or issubclass(kind, Enum):
        return Any
    if kind in (Callable, type) or kind.__module__.split(".")[0] not in sys.stdlib_module_names:
        return opaque(kind.__name__)
    return kind[tuple(map(yaml_type, inner))] if inner else kind  # type: ignore[index]


@cache
def opaque(name: str) -> type:
    """A placeholder for a class that only a node with a `_target_` can provide."""
    return type(name, (), {"__opaque__": True})


def fits(value: Any, annotation: Any) -> bool:
    """Whether the value can be passed as it is.

    An int fits a float, a list fits a tuple, a string fits a path. A bool is no number, nor is a
    quoted number.
    """
    if annotation in (Any, UNREAD):
        return True
    if isinstance(value, bool) and get_origin(annotation) is Literal:
        return any(value is choice for choice in get_args(annotation))
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            annotation, config=ConfigDict(arbitrary_types_allowed=True)
        )
    except (PydanticSchemaGenerationError, PydanticUserError):
        return True  # a type outside what YAML can hold: the constructor itself must check it
    try:
        adapter.validate_json(to_json(value, inf_nan_mode="constants"), strict=True)
    except ValidationError:
        return False
    return True


def choices(annotation: Any) -> list[str]:
    """The strings that a type lists (`Literal`)."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if get_origin(annotation) in UNIONS:
        return [choice for member in get_args(annotation) for choice in choices(member)]
    return []


def is_plain(annotation: Any) -> bool:
    """Whether only numbers, strings and the like have this type, and no component does."""
    if get_origin(annotation) is Literal:
        return True
    if get_origin(annotation) is Annotated:
        return is_plain(get_args(annotation)[0])
    if arguments := get_args(annotation):
        return all(a is ... or is_plain(a) for a in arguments)
    return annotation in (int, float, str, bool, None, types.NoneType)


def describe(annotation: Any) -> str:
    """A type in words: `int or null`, `list of float`, `one of joint, sum`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, types.NoneType):
        return "null"
    if annotation is Any:
        return "anything"
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *map(_bound, arguments[1:])]).rstrip()
    if origin in UNIONS:
        members = [m for m in arguments if not hasattr(m, "__opaque__")]
        return " or ".join(describe(member) for member in members or arguments)
    if origin is tuple:
        inner = [describe(a) for a in arguments if a is not ...]
        return f"list of {inner[0]}" if ... in arguments else f"list [{', '.join(inner)}]"
    if isinstance(origin, type) and issubclass(origin, Mapping) and arguments:
        return f"mapping of {describe(arguments[0])} to {describe(arguments[1])}"
    if origin is not None and arguments:
        return "list of " + describe(arguments[0])
    if hasattr(annotation, "__opaque__"):
        return f"a {annotation.__name__} component (_target_)"
    return getattr(annotation, "__name__", str(annotation))


def _bound(constraint: Any) -> str:
    """A limit of a number in words."""
    match constraint:
        case Gt(gt=value):
            return f"above {value}"
        case Ge(ge=value):
            return f"from {value}"
        case Lt(lt=value):
            return f"below {value}"
        case Le(le=value):
            return f"to {value}"
    return ""

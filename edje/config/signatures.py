"""The signature of a `_target_`, which is the schema of its configuration node.

In the project's own components, positional parameters are supplied by the code that connects
objects, and keyword-only ones are set in YAML. In other components every parameter may be set.

Importing Lightning alone takes seconds, but errors should show at once. So names come from the
source, and types too if the source shows them; for other types the module is imported.
"""

import ast
import builtins
import importlib
import inspect
import sys
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from pkgutil import iter_modules
from typing import Any, Literal, get_type_hints

from edje.config.source_code import Definition, Module, find, locate, module_named
from edje.config.value_types import UNREAD, opaque, yaml_type
from edje.renames import present_target

OWN = "edje"
RESOLVED = {"lightning.Trainer": {"precision": Literal["auto"]}}  # by a run, before it builds them
LIGHT = ("edje.ranges", "typing_extensions", *sys.stdlib_module_names)  # cheap to import for types
SYNTAX = (
    ast.Name,
    ast.Constant,
    ast.Subscript,
    ast.Tuple,
    ast.List,
    ast.BinOp,
    ast.BitOr,
    ast.Load,
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component's constructor."""

    annotation: Any  # UNREAD if only an import can show it
    required: bool  # YAML must set it
    wired: bool  # the run supplies it; YAML must not set it to a plain value
    bare: bool = False  # it is positional and has no default
    default: Any = None  # in YAML's form; UNREAD if it can't be read or held by YAML


@dataclass(frozen=True)
class Signature:
    """The parameters of a component; `is_open` if it takes any further keyword."""

    target: str
    parameters: dict[str, Parameter]
    is_open: bool = False
    own: bool = True  # edje's or a registered part, rather than other code

    def settable(self) -> list[str]:
        """Names that YAML may set, sorted."""
        return sorted(name for name, p in self.parameters.items() if not p.wired)


class UnknownTargetError(Exception):
    """Raised for a `_target_` that names nothing; `candidates` are names that exist near it."""

    def __init__(self, message: str, candidates: list[str]):
        super().__init__(message)
        self.candidates = candidates

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        return type(self), (str(self), self.candidates)


@cache
def signature_of(target: str, *, imported: bool = False) -> Signature:
    """A target's signature, from its source if possible; if `imported`, with all types.

    Raises:
        UnknownTargetError: there is no such module, class or function.
    """
    if (moved := present_target(target)) != target:
        raise UnknownTargetError(f"it is {moved} now", [])
    own = target.split(".")[0] == OWN
    definition = defined(target)
    read = None if imported or definition is None else parameters_of(definition, own)
    parameters, is_open = read or imported_parameters(target, own)
    for name, values in RESOLVED.get(target, {}).items():
        known = parameters[name]
        if known.annotation is not UNREAD:
            parameters[name] = replace(known, annotation=known.annotation | values)
    return Signature(target, parameters, is_open, own)


def defined(target: str) -> Definition | None:
    """The class or function that a dotted name stands for; None if only an import can tell.

    Raises:
        UnknownTargetError: the module can be read, but defines no such name.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UnknownTargetError("expected a dotted name such as edje.models.adapters.…", [])
    if locate(module_name) is None:
        parent, _, last = module_name.rpartition(".")
        above = locate(parent) if parent else None
        if above is None or above.submodule_search_locations is None:
            return None
        siblings = [m.name for m in iter_modules(list(above.submodule_search_locations))]
        if last in siblings:
            return None
        names = [f"{parent}.{sibling}.{name}" for sibling in siblings]
        raise UnknownTargetError(f"there is no module {module_name}", names)
    module = module_named(module_name)
    if module is None:
        return None
    found = find(module, name)
    if found is None and name not in module.definitions and module_name.split(".")[0] == OWN:
        names = [f"{module_name}.{other}" for other in module.definitions]
        raise UnknownTargetError(f"{module_name} has no {name}", names)
    return found


def parameters_of(
    definition: Definition, own: bool, depth: int = 0
) -> tuple[dict[str, Parameter], bool] | None:
    """Parameters of a class or function from its source; None if the source can't show them."""
    module, statement = definition.module, definition.statement
    match statement:
        case ast.FunctionDef():
            return arguments(statement.args, module, own, skip=0)
        case ast.ClassDef():
            for inner in statement.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    return arguments(inner.args, module, own, skip=1)
            decorators = " ".join(map(ast.unparse, statement.decorator_list))
            if "dataclass" in decorators:
                # Elsewhere a field may be a ClassVar, or a call of `field`.
                is_plain = "kw_only=True" in decorators and not statement.bases
                is_ours = module.name.split(".")[0] == OWN
                return fields_of(statement, module, own) if is_plain and is_ours else None
            if len(statement.bases) == 1 and isinstance(statement.bases[0], ast.Name) and depth < 9:
                base = find(module, statement.bases[0].id)
                return parameters_of(base, own, depth + 1) if base else None
    return None


def fields_of(
    statement: ast.ClassDef, module: Module, own: bool
) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a dataclass of keyword-only fields."""
    fields = [one for one in statement.body if isinstance(one, ast.AnnAssign)]
    names = [ast.arg(ast.unparse(one.target), one.annotation) for one in fields]
    values = [one.value for one in fields]
    given = ast.arguments(
        posonlyargs=[], args=[], defaults=[], kwonlyargs=names, kw_defaults=values
    )
    return arguments(given, module, own, skip=0)


def arguments(
    args: ast.arguments, module: Module, own: bool, skip: int
) -> tuple[dict[str, Parameter], bool]:
    """Parameters from a parsed argument list, without its first `skip` (self)."""
    positional = [*args.posonlyargs, *args.args]
    bare = len(positional) - len(args.defaults)
    given = [*[None] * bare, *args.defaults, *args.kw_defaults]
    parameters = {}
    for place, (a, default) in enumerate(zip([*positional, *args.kwonlyargs], given, strict=True)):
        keyword_only = place >= len(positional)
        if place >= skip:
            parameters[a.arg] = Parameter(
                readable(a.annotation, module),
                required=keyword_only and default is None,
                wired=own and not keyword_only,
                bare=place < bare,
                default=UNREAD if default is None else _literal(default),
            )
    return parameters, args.kwarg is not None


def _literal(default: ast.expr) -> Any:
    """A default's literal value; UNREAD if it is a name or a call."""
    try:
        return as_yaml(ast.literal_eval(default))
    except ValueError:
        return UNREAD


def as_yaml(value: Any) -> Any:
    """A value in YAML's form; UNREAD if YAML can't hold it."""
    if isinstance(value, list | tuple):
        items = [as_yaml(item) for item in value]
        return UNREAD if UNREAD in items else items
    return value if value is None or isinstance(value, bool | int | float | str) else UNREAD


def readable(annotation: ast.expr | None, module: Module, depth: int = 0) -> Any:
    """The type of an annotation, read from sources; UNREAD if that needs an import."""
    parts = [] if annotation is None else list(ast.walk(annotation))
    if annotation is None or depth > 9 or not all(isinstance(part, SYNTAX) for part in parts):
        return UNREAD
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    meant = {name: _named(name, module, depth) for name in names}
    if UNREAD in meant.values():
        return UNREAD
    try:
        found = yaml_type(eval(ast.unparse(annotation), {}, meant))  # of names and signs alone
    except TypeError:  # a quoted name combined with others
        return UNREAD
    return UNREAD if found is Any and "Any" not in names else found


def _named(name: str, module: Module, depth: int) -> Any:
    """What a name in an annotation stands for: a light type, an alias, a class of any module."""
    statement = module.definitions.get(name)
    if statement is None:
        return getattr(builtins, name, UNREAD)
    if isinstance(statement, ast.ImportFrom):
        source = module.absolute(statement)
        if source in LIGHT or source.split(".")[0] in LIGHT:
            original = next(a.name for a in statement.names if (a.asname or a.name) == name)
            return getattr(importlib.import_module(source), original, UNREAD)
    match find(module, name):
        case Definition(home, ast.Assign(value=value) | ast.AnnAssign(value=value)):
            return readable(value, home, depth + 1)
        case Definition(_, ast.ClassDef(bases=bases)) if "Enum" not in map(ast.unparse, bases):
            return opaque(name)
    return UNREAD


def imported_parameters(target: str, own: bool) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a target by importing it, with their types.

    Raises:
        UnknownTargetError: it can't be imported.
    """
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise UnknownTargetError(f"can't be imported ({error})", []) from error
    except AttributeError as error:
        names = [f"{module_name}.{n}" for n in dir(importlib.import_module(module_name))]
        raise UnknownTargetError(f"{module_name} has no {name}", names) from error
    if not callable(found):
        raise UnknownTargetError("is neither a class nor a function", [])
    return parameters_of_object(found, own)


def parameters_of_object(found: Any, own: bool) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a class or function that is already imported."""
    hinted = found.__init__ if inspect.isclass(found) and not is_dataclass(found) else found
    try:
        hints = get_type_hints(hinted, include_extras=True)
    except (NameError, TypeError):
        hints = {}  # some names exist only for type checkers: check names, not types
    parameters = {}
    is_open = False
    for parameter in inspect.signature(found).parameters.values():
        keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        is_bare = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters[parameter.name] = Parameter(
                yaml_type(hints.get(parameter.name, Any)),
                required=keyword_only and is_bare,
                wired=own and not keyword_only,
                bare=not keyword_only and is_bare,
                default=UNREAD if is_bare else as_yaml(parameter.default),
            )
    return parameters, is_open

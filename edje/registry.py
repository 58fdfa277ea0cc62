"""Names of parts: edje's own, those of a package's entry points, those registered by a program.

A checkpoint names its parts by short names. Nothing is imported because a file names it: a name
is only looked up among the parts that installed packages and the running program registered.
This module imports nothing heavy. A part's own module is imported only when the part is used.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from edje.errors import EdjeError
from edje.part_kinds import KINDS, Kind, lacking

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PartType = TypeVar("PartType", bound=Callable[..., Any])

OURS: dict[Kind, dict[str, str]] = {
    "adapter": {
        "attention_pruning": "edje.models.adapters.AttentionPruningAdapter",
        "compression": "edje.models.adapters.TokenCompressionAdapter",
        "grid_pooling": "edje.models.adapters.GridPoolingAdapter",
        "kmeans": "edje.models.adapters.KMeansAdapter",
        "linear_pooling": "edje.models.adapters.LinearPoolingAdapter",
        "local": "edje.models.adapters.LocalAdapter",
        "query_transformer": "edje.models.adapters.QueryTransformerAdapter",
        "subsampling": "edje.models.adapters.SubsamplingAdapter",
    },
    "objective": {
        "alignment": "edje.objectives.alignment.Alignment",
        "distillation": "edje.objectives.distillation.Distillation",
        "masked_language": "edje.objectives.masked_language.MaskedLanguage",
        "matching": "edje.objectives.matching.Matching",
        "text_recovery": "edje.objectives.text_recovery.TextRecovery",
    },
    "backbone": {
        "aligned": "edje.backbones.aligned.AlignedBackbone",
        "huggingface": "edje.backbones.huggingface.HuggingFaceBackbone",
        "sentence": "edje.backbones.sentence.SentenceEncoder",
        "timm": "edje.backbones.timm_backbone.TimmBackbone",
    },
}
NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Part:
    """A part with a name; `target` is the dotted name of its definition."""

    kind: Kind
    name: str
    target: str
    package: str  # that provides it; if a program registered it, its module's
    found: "EntryPoint | Callable[..., Any] | None" = None  # None: edje's own

    @property
    def is_ours(self) -> bool:
        """Whether edje itself provides it."""
        return self.found is None

    def load(self) -> Any:
        """The class or function itself.

        Raises:
            EdjeError: its module can't be imported, or it isn't a part of its kind.
        """
        if self.found is None:
            module, _, name = self.target.rpartition(".")
            return getattr(import_module(module), name)
        from importlib.metadata import EntryPoint  # slow and rarely needed

        if not isinstance(self.found, EntryPoint):
            return self.found
        try:
            loaded = self.found.load()
        except Exception as error:  # a plugin's module may raise anything
            raise EdjeError(
                f'{self.kind} "{self.name}" of the package {self.package}: {self.target} can\'t be '
                f"imported ({type(error).__name__}: {error}). Fix that package, or choose another "
                f"{self.kind}."
            ) from error
        _check(self.kind, self.name, loaded)
        return loaded


_registered: dict[tuple[Kind, str], Part] = {}


def register_adapter(name: str) -> Callable[[PartType], PartType]:
    """Decorate a class: `adapter._target_=<name>` and checkpoints then refer to it.

    Raises:
        EdjeError: the name is taken, or the class isn't an adapter.
    """
    return _registering("adapter", name)


def register_objective(name: str) -> Callable[[PartType], PartType]:
    """Decorate a class: `objective.<term>._target_=<name>` then refers to it.

    Raises:
        EdjeError: the name is taken, or the class isn't an objective.
    """
    return _registering("objective", name)


def register_backbone(name: str) -> Callable[[PartType], PartType]:
    """Decorate a class or a function that builds one: `backbone._target_=<name>` then refers to it.

    Raises:
        EdjeError: the name is taken, or the class isn't a backbone.
    """
    return _registering("backbone", name)


def find(kind: Kind, given: str) -> Part | None:
    """The part with this short name, or registered with this dotted name; None if none.

    Raises:
        EdjeError: two parts have the name.
    """
    if "." in given:
        known = ours(kind, given)
        if known is not None or given.startswith("edje."):
            return known
        return next((part for part in _all_parts(kind) if part.target == given), None)
    named = [part for part in _all_parts(kind) if part.name == given]
    for other in named[1:]:
        if not _are_same(named[0], other):
            raise _taken(named[0], other)
    if not named:
        return None
    return replace(named[0], package=named[-1].package)  # an entry point knows the package


def ours(kind: Kind, given: str) -> Part | None:
    """The part of edje's own with this short or dotted name; other packages aren't searched.

    A dotted name matches by its class name, whichever module of edje it names.
    """
    _, _, last = given.rpartition(".")
    for name, target in OURS[kind].items():
        is_alike = given.startswith("edje.") and target.rpartition(".")[2] == last
        if given == name or is_alike:
            return Part(kind, name, target, "edje")
    return None


def short_name(kind: Kind, given: str) -> str:
    """The name under which checkpoints keep a part, from its short or dotted name."""
    known = ours(kind, given) or find(kind, given)
    return given if known is None else known.name


def lasting_name(kind: Kind, given: str) -> str:
    """The name of a part in stores, which never changes: the dotted name for edje's own."""
    known = ours(kind, given)
    return short_name(kind, given) if known is None else known.target


def names(kind: Kind) -> list[str]:
    """All short names of a kind, sorted."""
    return sorted({part.name for part in _all_parts(kind)})


def packages_of(given: list[str]) -> dict[str, str]:
    """For each given part that isn't edje's own: its name, and the package that provides it."""
    if all(any(ours(kind, name) for kind in KINDS) for name in given):
        return {}
    parts = [part for kind in KINDS for part in _all_parts(kind)]
    return {part.name: part.package for part in parts if part.name in given and not part.is_ours}


def unknown(kind: Kind, name: str, where: str, package: str | None = None) -> EdjeError:
    """The error for a part that isn't registered; `package` is the one that once provided it."""
    if package is not None:
        return EdjeError(
            f'{where}: it needs the {kind} "{name}", which isn\'t registered here. It came with '
            f"the package {package}: install that package, or import it first."
        )
    close = get_close_matches(name, names(kind), n=1)
    hint = f" Did you mean {close[0]}?" if close else f" Registered: {', '.join(names(kind))}."
    return EdjeError(f'{where}: no {kind} is registered as "{name}".{hint} {how_to_register(kind)}')


def how_to_register(kind: Kind) -> str:
    """How users register their own part."""
    return (
        f'Register your own with @edje.register_{kind}("<name>") in a module that is imported '
        f"first, or with an entry point <name> of the group edje.{kind}s in its package."
    )


def _registering(kind: Kind, name: str) -> Callable[[PartType], PartType]:
    if not NAME.fullmatch(name):
        raise EdjeError(
            f"register_{kind}({name!r}): expected a name of letters, digits, _ and -, and no dot."
        )

    def register(part: PartType) -> PartType:
        _check(kind, name, part)
        module, qualified = part.__module__, part.__qualname__
        new = Part(kind, name, f"{module}.{qualified}", module.split(".")[0], part)
        before = ours(kind, name) or _registered.get((kind, name))
        if before is not None and before.target != new.target:
            raise _taken(before, new)
        _registered[kind, name] = new
        return part

    return register


def _check(kind: Kind, name: str, part: Any) -> None:
    if (reason := lacking(kind, part)) is not None:
        raise EdjeError(
            f'{kind} "{name}" ({getattr(part, "__qualname__", part)}) is not a valid {kind}: '
            f"{reason}. See docs/parts.md, 'Parts of your own'."
        )


def _all_parts(kind: Kind) -> Iterator[Part]:
    from importlib.metadata import entry_points  # slow and rarely needed

    yield from (Part(kind, name, target, "edje") for name, target in OURS[kind].items())
    yield from (part for part in _registered.values() if part.kind == kind)
    for point in entry_points(group=f"edje.{kind}s"):
        package = "an unnamed package" if point.dist is None else point.dist.name
        yield Part(kind, point.name, point.value.replace(":", "."), package, point)


def _are_same(one: Part, other: Part) -> bool:
    """Whether two parts with one name are the same: registered twice, or from two modules."""
    if one.target == other.target:
        return True
    return one in _registered.values() and one.load() is other.load()


def _taken(one: Part, other: Part) -> EdjeError:
    return EdjeError(
        f'{one.kind} "{one.name}" is taken twice: by {one.target} ({one.package}) and by '
        f"{other.target} ({other.package}). Give one of them another name."
    )

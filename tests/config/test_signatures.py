"""The signatures read from source must be those that Python itself sees."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edje.config.signatures import UnknownTargetError, signature_of
from edje.config.value_types import UNREAD

CONF = Path(__file__).parents[2] / "conf"


def targets_in(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["_target_"]} if "_target_" in node else set()
        return own.union(*(targets_in(value) for value in node.values()))
    return set().union(*(targets_in(value) for value in node)) if isinstance(node, list) else set()


TARGETS = sorted(
    set().union(
        *(
            targets_in(yaml.safe_load(path.read_text()))
            for path in CONF.rglob("*.yaml")
            if not path.is_relative_to(CONF / "hydra")  # whose plugins are Hydra's to build
        )
    )
)


OTHERS = """from dataclasses import dataclass, field
from typing import ClassVar

@dataclass(kw_only=True)
class Margin:
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    margin: float = field(default=0.2)
    seen: int = field(default=0, init=False)
"""


def test_fields_of_others_that_are_no_arguments_are_not_taken_for_some(tmp_path, monkeypatch):
    (tmp_path / "others_margin.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = (found := signature_of("others_margin.Margin").parameters)
    assert name == "margin" and found[name].default == 0.2


@pytest.mark.parametrize("target", TARGETS)
def test_source_and_import_give_the_same_signature(target: str) -> None:
    signature, imported = signature_of(target), signature_of(target, imported=True)
    assert signature.is_open == imported.is_open
    assert list(signature.parameters) == list(imported.parameters)
    for name, read in signature.parameters.items():
        seen = imported.parameters[name]
        assert (read.required, read.wired) == (seen.required, seen.wired), name
        if read.annotation is not UNREAD:
            assert read.annotation == seen.annotation, name
        if read.default is not UNREAD:
            assert read.default == seen.default, name


@pytest.mark.parametrize("target", [t for t in TARGETS if t.startswith("edje.")])
def test_our_components_say_what_yaml_may_give_them(target: str) -> None:
    signature = signature_of(target)
    assert not signature.is_open, "**kwargs would swallow misspelt keys"
    for name in signature.settable():
        annotation = signature.parameters[name].annotation
        assert annotation not in (Any, UNREAD), f"{name} needs a simple type"


def test_reading_signatures_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edje.config.signatures import signature_of;"
        f"[signature_of(target) for target in {TARGETS}];"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_target_outside_the_project_can_be_set_in_full_and_needs_nothing() -> None:
    signature = signature_of("lightning.pytorch.loggers.CSVLogger")
    assert "save_dir" in signature.settable()
    assert not any(parameter.required for parameter in signature.parameters.values())


def test_a_target_whose_source_cannot_tell_is_imported() -> None:
    assert "fields" not in signature_of("edje.tokens.fingerprint.Fingerprint").settable()
    assert signature_of("edje.records.CaptionRecord").parameters["text"].annotation is str


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Adapter", "expected a dotted name"),
        ("edje.models.adapters.Nothing", "has no Nothing"),
        ("edje.nowhere.Thing", "no module edje.nowhere"),
        ("edje.data.folder.FolderSource", "it is edje.data.sources.folder.FolderSource now"),
        ("nowhere.at.all.Thing", "can't be imported"),
        ("edje.records.DIRECTIONS", "neither a class nor a function"),
    ],
)
def test_a_target_that_names_nothing_is_refused(target: str, message: str) -> None:
    with pytest.raises(UnknownTargetError, match=message):
        signature_of(target)


def test_a_target_in_folders_without_init_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spaces" / "inner").mkdir(parents=True)
    (tmp_path / "spaces" / "inner" / "part.py").write_text(
        "class Part:\n    def __init__(self, *, size: int = 3) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(signature_of("spaces.inner.part.Part").settable()) == ["size"]
    with pytest.raises(UnknownTargetError, match=r"spaces\.inner\.none"):
        signature_of("spaces.inner.none.Part")

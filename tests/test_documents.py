"""Claims about the documents and CITATION: what they name is there, and links lead somewhere."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import edje

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)")  # of a link within the project


def anchors(file: Path) -> set[str]:
    """What a link may end in: the headings, as they are written in addresses."""
    heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_contributing_names_files_that_are_there() -> None:
    named = set(re.findall(r"(?<![\w/<])(?:edje|conf|tests)/[\w./-]*\w", CONTRIBUTING))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


def test_each_walk_ends_at_something_of_this_name() -> None:
    table = CONTRIBUTING.partition("## Where to change what")[2].partition("\n## ")[0]
    walks = re.findall(r"^\|[^|]+\| (`.*`) \| `(\w+)` \|$", table, re.MULTILINE)
    assert len(walks) == 5
    for places, name in walks:
        file = re.findall(r"`(edje/[^`]*)`", places)[-1]
        assert re.search(rf"^ *(class|def) {name}\b", (ROOT / file).read_text(), re.MULTILINE), file


DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("experiments/*/README.md")),
]
GENERATED = (ROOT / "docs/config", ROOT / "docs/api")  # of the site, as it checks: docs/test_site


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        file = Path(os.path.normpath(document.parent / target)) if target else document
        if GENERATED[0] in file.parents:
            continue
        assert file.exists(), target
        assert not anchor or GENERATED[1] in file.parents or anchor in anchors(file), anchor


def test_contributing_names_every_target_of_the_tests_and_its_time() -> None:
    makefile = (ROOT / "Makefile").read_text()
    slow = re.findall(r"^SLOW := (.*?)#", makefile, re.MULTILINE)[0].split()
    stated = dict(
        re.findall(r"^\| `make test-(\w+)` \|.*\| (.*?) ?\|$", CONTRIBUTING, re.MULTILINE)
    )
    for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        name, _, text = marker.partition(":")
        if name in slow:
            assert text.endswith(f"({stated[name]})"), name
    assert {*slow, "gpu", "all", "oldest"} <= stated.keys()


def test_the_changelog_has_a_section_of_this_version() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = Version(edje.__version__)
    assert heads[0] == ("Unreleased" if version.is_devrelease else edje.__version__)
    released = [Version(head) for head in heads if head != "Unreleased"]
    assert released == sorted(released, reverse=True) and max(released) <= version


def test_the_citation_speaks_of_this_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    assert [one["name"] for one in citation["authors"]] == [
        one["name"] for one in PROJECT["project"]["authors"]
    ]

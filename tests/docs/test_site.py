"""The documentation as a site: it builds without a warning, and everything in it is there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import edje
from edje import analysis, pipeline
from tests.docs.blocks import ROOT

pytestmark = pytest.mark.docs
CONF = ROOT / "conf"
OF_HYDRA = {"hydra/help/edje", "hydra/hydra_logging/edje", "hydra/job_logging/edje"}  # its looks
LISTED = ("experiment", "paper", "sweep")  # whose options are lines, not sections
PAGES = {"index": "image_index", "hydra/sweeper": "sweeper"}  # where a page has another name
ELEMENTS = {  # what the theme and Markdown make; a `<folder>` of a text would be one more
    *("html", "head", "meta", "title", "link", "script", "style", "body", "noscript"),
    *("header", "nav", "main", "article", "aside", "footer", "section", "details", "summary"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "div", "span", "a", "br", "hr", "img", "blockquote"),
    *("ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td"),
    *("em", "strong", "code", "pre", "small", "kbd", "b", "i", "sup", "sub"),
    *("label", "input", "form", "button", "svg", "path", "g", "rect", "circle"),
}
OFFLINE = """
import pathlib, socket


def refuse(*asked, **more):
    pathlib.Path({log!r}).open("a").write(repr(asked) + "\\n")
    raise OSError("nothing is fetched")


socket.getaddrinfo = socket.socket.connect = refuse
"""


@dataclass
class Page(HTMLParser):
    """What a page has: its elements, where links may end, where links lead, what it loads."""

    path: Path
    elements: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.text = self.path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src", "srcset", "data", "action") and value:
                (self.links if tag == "a" else self.loads).append(value)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, where nothing can be fetched."""
    root = tmp_path_factory.mktemp("site")
    (root / "sitecustomize.py").write_text(OFFLINE.format(log=str(root / "asked")))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), str(ROOT)]),
        "NO_MKDOCS_2_WARNING": "1",
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(root / "built")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert not [line for line in said if not line.startswith("INFO")], done.stderr
    assert not (root / "asked").exists(), (root / "asked").read_text()
    return root / "built"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    found = {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}
    assert len(found) > 50
    return found


def led_to(site: Path, page: Page, link: str) -> tuple[Path, str]:
    """The file and the anchor that a link of a page leads to."""
    parts = urlsplit(link)
    place = site if parts.path.startswith("/") else page.path.parent
    file = place / unquote(parts.path).lstrip("/") if parts.path else page.path
    return Path(os.path.normpath(file / "index.html" if file.is_dir() else file)), parts.fragment


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    checked = 0
    for page in pages.values():
        for link in page.links:
            if urlsplit(link).scheme in ("http", "https"):
                continue
            file, anchor = led_to(site, page, link)
            assert file.is_file(), f"{page.path}: {link}"
            if anchor:
                there = pages[file.relative_to(site).as_posix()].ids
                assert unquote(anchor) in there, f"{page.path}: {link}"
            checked += 1
    assert checked > 5000


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert page.loads
        for link in page.loads:
            assert not urlsplit(link).netloc, f"{page.path}: {link}"
            assert link.startswith("data:") or led_to(site, page, link)[0].is_file(), link
        assert "mermaid" not in page.text, "diagrams would be drawn by a script of another host"
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert "url(http" not in text and "url(//" not in text and "@import" not in text, style


def test_nothing_in_a_text_has_become_an_element(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert page.elements <= ELEMENTS, f"{page.path}: {page.elements - ELEMENTS}"


def options() -> Iterator[tuple[str, str]]:
    for path in sorted(CONF.rglob("*.yaml")):
        name = path.relative_to(CONF).with_suffix("").as_posix()
        if "/" in name and name not in OF_HYDRA:
            depth = 2 if name.startswith("hydra/") else 1
            parts = name.split("/")
            yield "/".join(parts[:depth]), "/".join(parts[depth:])


def test_every_group_and_option_has_its_place(pages: dict[str, Page]) -> None:
    found = list(options())
    assert len(found) > 130
    overview = pages["config/index.html"].words
    for group, option in found:
        page = pages[f"config/{PAGES.get(group, group)}.html"]
        assert group in overview
        assert f"{group}={option}" in page.words if group in LISTED else option in page.ids


def test_a_key_stands_with_its_type_its_default_and_what_it_means(pages: dict[str, Page]) -> None:
    words = " ".join(pages["config/adapter.html"].words.split())
    assert "adapter.num_tokens int above 0 8 m, the number of tokens at inference" in words
    words = " ".join(pages["config/data.html"].words.split())
    assert "data.split_names mapping of str to str or null null" in words
    assert "{<its name>: train}" in words


def test_every_public_name_has_its_place(pages: dict[str, Page]) -> None:
    ids = set().union(*(page.ids for name, page in pages.items() if name.startswith("api/")))
    assert "__version__" in pages["api/index.html"].words
    for module, names in (
        ("edje", set(edje.__all__) - {"__version__"}),
        ("edje.pipeline", pipeline.__all__),
        ("edje.analysis", analysis.__all__),
    ):
        found = {name for name in names if {f"{module}.{name}", f"{module}.{name}.{name}"} & ids}
        assert set(names) == found, module


def test_a_shape_reads_as_in_the_source(pages: dict[str, Page]) -> None:
    words = " ".join(pages["api/parts.html"].words.split())
    assert 't2i: Float[Tensor, "batch candidates"], i2t: Float' in words
    assert ') -> Float[Tensor, ""]' in words
    words = pages["api/reranker.html"].words
    assert 'visual: Float[Tensor, "pairs tokens width"]' in words


def test_the_search_finds_the_pages(site: Path, pages: dict[str, Page]) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    found = {one["location"].partition("#")[0] or "index.html" for one in index["docs"]}
    assert found == pages.keys() - {"404.html"}

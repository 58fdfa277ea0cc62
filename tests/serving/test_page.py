"""Claims about the search page, in a real Chromium over an index of the shapes' pictures."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from PIL import Image

from edje import ImageIndex, Reranker
from edje.data.shapes.shapes_source import ShapesSource
from edje.index.answers import Question
from edje.index.hits import Hit
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp
from tests.serving.served import serving

pytest.importorskip("axe_playwright_python", reason="playwright and axe are not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WAIT = 30_000  # milliseconds: machines may be busy
# Captions of four pictures; one has markup as its name, one lies there twice, one is no file.
PLAIN = "an orange circle above a small red cross and to the left of a blue square"
MARKUP = "a purple circle to the left of a small blue triangle and above a large cyan star"
TWICE = "a yellow bar below a blue diamond and to the left of a small red square"
NO_FILE = "a cyan star above a small red diamond and above a small white bar"
ANOTHER = "a small blue cross to the left of an orange square and below a red circle"
IDS = {
    ANOTHER: "test_000021.png",
    PLAIN: "test_000022.png",
    MARKUP: "<img src=x onerror=alert(1)><b>bold<b>&amp; 100% 'so' \"said\" #1?.png",
    TWICE: "test_000047.png",
    NO_FILE: "in memory",
}
COPY = "copies/of it/test_000047 again.png"
NO_MATCH = "two dogs racing along a beach"


@dataclass(frozen=True)
class Site:
    """A running server, and the index that it answers from."""

    address: str
    index: ImageIndex

    def search(self, query: str, **options: Any) -> list[Hit]:
        """What the page must show."""
        return self.index.search(query, **{"top": 20, "group_duplicates": True} | options)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("shapes")
    source = ShapesSource(
        root=str(root / "source"),
        train_images=0,
        val_images=0,
        test_images=48,
        unique_among=48,
        image_side=192,
    )
    source.render()
    pictures = root / "source" / "images"
    (pictures / "test_000018.png").rename(pictures / IDS[MARKUP])
    (pictures / COPY).parent.mkdir(parents=True)
    shutil.copy(pictures / IDS[TWICE], pictures / COPY)
    with Image.open(pictures / "test_000004.png") as image:
        in_memory = image.convert("RGB")
    (pictures / "test_000004.png").unlink()
    index = ImageIndex.open(root / "shapes.edje", Reranker.from_pretrained("shapes", device="cpu"))
    index.add(pictures, show_progress_bar=False)
    index.add({IDS[NO_FILE]: in_memory})
    with edje_serve(index.folder) as address:
        yield Site(address, index)


@contextmanager
def edje_serve(index: Path) -> Iterator[str]:
    """`edje serve` in another process; its address."""
    command = [sys.executable, "-m", "edje", "serve", str(index), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def heard() -> list[str]:
    """What a page complains of, and what it asks of other hosts."""
    return []


@pytest.fixture
def context(
    request: pytest.FixtureRequest, chromium: Browser, site: Site, heard: list[str]
) -> Iterator[BrowserContext]:
    """A window, 1280 pixels wide; `parametrize("context", [{…}], indirect=True)` for others."""
    options = {"viewport": WIDE, "base_url": site.address} | getattr(request, "param", {})
    with chromium.new_context(**options) as context:
        context.set_default_timeout(WAIT)
        context.on("weberror", lambda error: heard.append(str(error.error)))
        context.on("console", lambda said: heard.extend(complaint(said)))
        context.on(
            "request",
            lambda asked: (
                None if asked.url.startswith(f"{site.address}/") else heard.append(asked.url)
            ),
        )
        context.on("dialog", lambda dialog: heard.append(dialog.message))
        yield context


def complaint(said: ConsoleMessage) -> list[str]:
    """What an entry of the console complains of, but that the picture in memory has no file."""
    is_missing = unquote(urlsplit(said.location["url"]).path) == f"/images/{IDS[NO_FILE]}"
    return [said.text] if said.type in ("error", "warning") and not is_missing else []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#size")).to_have_text("49 pictures")
    return page


def search(page: Page, query: str) -> None:
    """Type a query, and wait for its answer."""
    page.get_by_role("searchbox", name="Describe a picture").fill(query)
    page.keyboard.press("Enter")
    answered(page, query)


def answered(page: Page, query: str) -> None:
    expect(page).to_have_title(re.compile(re.escape(query)))
    expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#reranked ol > li").first).to_be_visible()


def hits(page: Page, name: str) -> Locator:
    """The items of a list, by its heading."""
    return page.get_by_role("region", name=name).locator("ol > li")


def names(items: Locator) -> list[str]:
    """The names of their pictures, as they are read out."""
    return items.locator("img:visible").evaluate_all("all => all.map(one => one.alt)")


def texts(items: Locator, part: str) -> list[str]:
    return [one.strip() for one in items.locator(part).all_text_contents()]


def test_a_typed_query_shows_the_right_picture_first_without_any_complaint_or_other_host(
    page: Page, heard: list[str]
) -> None:
    for query in (PLAIN, MARKUP, ANOTHER):
        search(page, query)
        assert names(hits(page, "Reranked"))[0] == IDS[query]
        assert names(hits(page, "First stage"))[0] != IDS[query]
        page.wait_for_load_state("networkidle")
    widths = page.locator(".picture img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert min(widths[:6]) > 100, "the pictures themselves are there"
    assert heard == []


def test_the_page_shows_what_the_index_finds_with_probabilities_and_places(
    page: Page, site: Site
) -> None:
    page.get_by_label("Fold similar pictures").uncheck()
    search(page, PLAIN)
    found = site.search(PLAIN, group_duplicates=False)
    items = hits(page, "Reranked")
    known = {hit.id: hit for hit in site.search(PLAIN, top=49, group_duplicates=False)}
    shown = [known[name] for name in texts(items, ".id")]
    expected = [hit.score for hit in found]
    assert [hit.score for hit in shown] == pytest.approx(expected, abs=1e-3)  # ties may change
    assert texts(items, ".rank") == [str(place) for place in range(1, 21)]
    for said, hit in zip(texts(items, ".sure"), shown, strict=True):
        assert hit.probability is not None
        number = said.removeprefix("probability ").removesuffix("%")
        least, most = {"<1": (0, 1), ">99": (99, 100)}.get(number) or (
            float(number) - 0.51, float(number) + 0.51,
        )  # fmt: skip
        assert least <= 100 * hit.probability <= most
    moves = [hit.rank - place for place, hit in enumerate(shown, start=1)]
    said = ["" if not by else f"▲up  {by}" if by > 0 else f"▼down  {-by}" for by in moves]
    assert texts(items, ".moved") == said
    assert moves[0] > 0 and min(moves) < 0
    first = hits(page, "First stage")
    assert [known[name].rank for name in texts(first, ".id")] == list(range(1, 21))
    assert set(texts(first, ".moved")) == {""}


@pytest.mark.parametrize("query", [PLAIN, TWICE, NO_MATCH])
def test_with_folded_pictures_each_is_said_to_move_from_its_place_in_the_whole_folded_list(
    page: Page, site: Site, query: str
) -> None:
    search(page, query)
    (answer,) = site.index.answers([Question(query)])
    folded = answer.first_stage(group_duplicates=True)
    assert len(folded) < len(answer.hits), "some are folded"
    places = {
        one: place for place, hit in enumerate(folded, start=1) for one in (hit.id, *hit.duplicates)
    }
    items = hits(page, "Reranked")
    shown = texts(items, ".id")
    moves = [places[name] - place for place, name in enumerate(shown, start=1)]
    said = ["" if not by else f"▲up  {by}" if by > 0 else f"▼down  {-by}" for by in moves]
    assert texts(items, ".moved") == said
    ranks = {hit.id: hit.rank for hit in answer.hits}
    assert any(20 < places[name] < ranks[name] for name in shown), "one tells places from ranks"


def test_nothing_matches_well_is_said_where_it_is_so(page: Page) -> None:
    poor = page.get_by_role("status").get_by_text("Nothing matches well")
    search(page, NO_MATCH)
    expect(poor).to_be_visible()
    assert hits(page, "Reranked").count() == 20
    search(page, PLAIN)
    expect(poor).to_have_count(0)


def test_a_line_tells_the_time_of_each_stage(page: Page) -> None:
    search(page, PLAIN)
    line = page.get_by_role("status").inner_text()
    found = re.fullmatch(
        r"49 of 49 pictures reranked in ([\d.,]+) ms: text ([\d.,]+), first stage ([\d.,]+), "
        r"reading ([\d.,]+), scoring ([\d.,]+), other ([\d.,]+)",
        line.strip(),
    )
    assert found, line
    total, *stages = (float(time.replace(",", "")) for time in found.groups())
    assert sum(stages) == pytest.approx(total, abs=3)  # each is rounded


def test_the_number_of_candidates_can_be_chosen(page: Page, site: Site) -> None:
    page.get_by_label("Fold similar pictures").uncheck()
    search(page, PLAIN)
    page.get_by_label("Candidates").select_option("10")
    expect(hits(page, "Reranked")).to_have_count(10)
    found = site.search(PLAIN, k=10, group_duplicates=False)
    assert {*texts(hits(page, "Reranked"), ".id")} == {hit.id for hit in found}
    assert parse_qs(urlsplit(page.url).query) == {"q": [PLAIN], "k": ["10"], "fold": ["0"]}


def test_the_number_of_tokens_can_be_chosen_only_where_there_are_several(
    context: BrowserContext, site: Site
) -> None:
    asked: list[dict[str, list[str]]] = []
    context.on(
        "request",
        lambda one: (
            asked.append(parse_qs(urlsplit(one.url).query)) if "/v1/search?" in one.url else None
        ),
    )
    plain, nested = context.new_page(), context.new_page()
    plain.goto("/")
    search(plain, PLAIN)
    expect(plain.get_by_role("combobox")).to_have_count(1)
    assert "tokens" not in asked.pop()
    # no shipped reranker is nested: the page is told another one's facts, and its answers are ours
    facts = context.request.get("/v1/info").json() | {
        "token_budgets": [2, 4, 8], "default_tokens": 8,
    }  # fmt: skip
    nested.route("**/v1/info", lambda route: route.fulfill(json=facts))
    answer = context.request.get("/v1/search", params={"q": PLAIN}).json()
    nested.route("**/v1/search?*", lambda route: route.fulfill(json=answer))
    nested.goto("/")
    search(nested, PLAIN)
    assert asked.pop()["tokens"] == ["8"]
    with nested.expect_request("**/v1/search?*"):
        nested.get_by_label("Tokens").select_option("4")
    assert asked.pop()["tokens"] == ["4"]
    assert parse_qs(urlsplit(nested.url).query) == {"q": [PLAIN], "tokens": ["4"]}


def test_near_duplicates_are_folded_and_unfold(page: Page) -> None:
    search(page, TWICE)
    item = hits(page, "Reranked").first
    (name,) = names(item)
    (other,) = {IDS[TWICE], COPY} - {name}
    more = item.get_by_role("button", name=re.compile(r"^\+\d+ similar$"))
    expect(more).to_have_attribute("aria-expanded", "false")
    more.click()
    expect(more).to_have_attribute("aria-expanded", "true")
    assert more.inner_text() == f"+{len(names(item)) - 1} similar" and other in names(item)
    item.get_by_role("button", name=other).click()
    expect(page.get_by_role("dialog", name=other)).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Fold similar pictures").uncheck()
    expect(hits(page, "Reranked").nth(1).locator("img")).to_have_attribute("alt", other)
    assert parse_qs(urlsplit(page.url).query)["fold"] == ["0"]


def test_a_picture_opens_large_and_arrow_keys_walk_on(page: Page, site: Site) -> None:
    page.get_by_label("Fold similar pictures").uncheck()
    search(page, PLAIN)
    first, *_ = site.search(PLAIN, group_duplicates=False)
    second = texts(hits(page, "Reranked"), ".id")[1]
    hits(page, "Reranked").first.locator(".picture").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_have_accessible_name(first.id)
    expect(dialog.get_by_role("img")).to_have_attribute("src", re.compile(r"size=large$"))
    expect(dialog).to_contain_text(f"place 1 · up {first.rank - 1} · probability")
    page.keyboard.press("ArrowRight")
    expect(dialog).to_have_accessible_name(second)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # the first stays
    expect(dialog).to_have_accessible_name(first.id)
    expect(dialog.get_by_role("button", name="Previous picture")).to_be_disabled()
    dialog.get_by_role("button", name="Next picture").click()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator(":focus")).to_have_accessible_name(second)


def test_the_query_is_in_the_address_and_back_and_forward_work(
    page: Page, context: BrowserContext
) -> None:
    search(page, PLAIN)
    search(page, TWICE)
    assert parse_qs(urlsplit(page.url).query) == {"q": [TWICE]}
    page.go_back()
    answered(page, PLAIN)
    expect(page.get_by_role("searchbox")).to_have_value(PLAIN)
    assert names(hits(page, "Reranked"))[0] == IDS[PLAIN]
    page.go_back()
    expect(page.locator("#results")).to_be_hidden()
    expect(page.get_by_role("searchbox")).to_have_value("")
    page.go_forward()
    page.go_forward()
    answered(page, TWICE)
    shared = context.new_page()
    shared.goto(page.url)
    answered(shared, TWICE)
    assert texts(hits(shared, "Reranked"), ".id") == texts(hits(page, "Reranked"), ".id")


def test_the_keyboard_alone_is_enough_and_the_focus_is_always_seen(page: Page) -> None:
    searches: list[str] = []
    page.on("request", lambda one: searches.extend([one.url] if "/v1/search?" in one.url else []))
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(PLAIN)
    page.keyboard.press("Enter")
    answered(page, PLAIN)
    outlined = "document.activeElement.matches(':focus-visible') && "
    outlined += "getComputedStyle(document.activeElement).outlineStyle === 'solid'"
    for name in ("Search", "Candidates", "Fold similar pictures", "Skip to the reranked pictures"):
        page.keyboard.press("Tab")
        assert page.evaluate(outlined), name
        expect(page.locator(":focus")).to_have_accessible_name(re.compile(rf"^{name}"))
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_accessible_name(IDS[PLAIN])
    assert page.evaluate(outlined)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=IDS[PLAIN])).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(":focus")).to_have_accessible_name(IDS[PLAIN])
    assert len(searches) == 1, "moving about asks nothing again"


def test_more_pictures_come_when_asked_for_and_the_focus_goes_to_the_first_of_them(
    page: Page,
) -> None:
    search(page, PLAIN)
    page.get_by_label("Fold similar pictures").uncheck()
    page.get_by_role("button", name="Show more").press("Enter")
    expect(hits(page, "Reranked")).to_have_count(40)
    expect(page.locator(":focus")).to_have_accessible_name(texts(hits(page, "Reranked"), ".id")[20])


def test_markup_in_names_and_queries_is_text(page: Page, heard: list[str]) -> None:
    search(page, MARKUP)
    item = hits(page, "Reranked").first
    assert names(item) == [IDS[MARKUP]]
    assert texts(item, ".id") == [IDS[MARKUP]]
    loaded = item.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)")
    assert loaded > 100
    item.locator(".picture").click()
    expect(page.get_by_role("dialog")).to_have_accessible_name(re.sub(r"\s+", " ", IDS[MARKUP]))
    page.keyboard.press("Escape")
    search(page, "<b>bold</b><img src=x onerror=alert(1)><script>alert(1)</script>")
    assert page.locator("b, main script, img[src='x']").count() == 0
    assert heard == []


@pytest.mark.parametrize("context", [{"viewport": NARROW, "has_touch": True}], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_window_and_both_lists_can_be_seen(page: Page) -> None:
    def fits() -> bool:
        return page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('dialog[open]')]"
            ".every(one => one.scrollWidth <= innerWidth)"
        )

    assert fits()
    search(page, TWICE)
    assert fits()
    expect(hits(page, "Reranked").first).to_be_visible()
    expect(page.locator("#first_stage")).to_be_hidden()
    hits(page, "Reranked").first.get_by_role("button", name="similar").click()
    assert fits()
    search(page, MARKUP)
    hits(page, "Reranked").first.locator(".picture").click()
    assert fits()
    page.keyboard.press("Escape")
    switch = page.get_by_role("group", name="Which list is shown")
    switch.get_by_role("button", name="First stage").click()
    expect(page.locator("#first_stage li").first).to_be_visible()
    expect(page.locator("#reranked")).to_be_hidden()
    assert fits()


SCHEMES = [{"color_scheme": "light"}, {"color_scheme": "dark"}]


@pytest.mark.parametrize("context", SCHEMES, indirect=True, ids=["light", "dark"])
def test_both_schemes_pass_an_audit_of_accessibility(
    page: Page, request: pytest.FixtureRequest
) -> None:
    """axe-core finds nothing: contrasts, names, roles, landmarks and the order of headings."""
    is_dark = "dark" in request.node.name
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == is_dark
    faults = [audit(page)]
    search(page, NO_MATCH)
    faults.append(audit(page))
    hits(page, "Reranked").first.locator(".picture").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    faults.append(audit(page))
    page.keyboard.press("Escape")
    page.route("**/v1/search?*", lambda route: route.abort())
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("alert")).to_be_visible()
    faults.append(audit(page))
    assert faults == [[], [], [], []]


def audit(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("context", [{"reduced_motion": "reduce"}], indirect=True)
def test_nothing_moves_where_motion_is_unwanted(page: Page) -> None:
    search(page, PLAIN)
    durations = page.evaluate(
        "[...document.querySelectorAll('*')].map(one => getComputedStyle(one))"
        ".map(style => style.transitionDuration + style.animationName)"
    )
    assert set(durations) == {"0snone"}


MESSAGES = {
    "gone": (None, None, "The server can’t be reached"),
    "busy": (429, {"error": {"message": "queue full"}}, "busy with other searches"),
    "token": (401, {"error": {"message": "no token"}}, "needs its token"),
    "refused": (422, {"error": {"message": "q: <b>too long</b>"}}, "q: <b>too long</b>"),
    "broken": (500, "<h1>oops</h1>", "The server answered 500."),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_error_is_said_plainly_and_can_be_tried_again(page: Page, kind: str) -> None:
    status, body, message = MESSAGES[kind]
    search(page, TWICE)

    def reply(route: Route) -> None:
        if status is None:
            route.abort("connectionrefused")
        elif isinstance(body, str):
            route.fulfill(status=status, body=body, content_type="text/html")
        else:
            route.fulfill(status=status, json=body)

    page.route("**/v1/search?*", reply)
    page.get_by_role("searchbox").fill(PLAIN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.locator("#results")).to_be_hidden()
    page.unroute("**/v1/search?*")
    page.get_by_role("button", name="Try again").click()
    answered(page, PLAIN)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert names(hits(page, "Reranked"))[0] == IDS[PLAIN]


def test_a_token_in_the_address_opens_the_page_and_leaves_the_address(
    chromium: Browser, site: Site
) -> None:
    token = "0123456789abcdef"
    searcher = Searcher(ImageIndex.open(site.index.folder, site.index.reranker))
    with (
        serving(WebApp(searcher, token=token)) as served,
        chromium.new_context(base_url=served.url) as context,
    ):
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_role("alert")).to_contain_text("needs its token")
        page.goto(f"/?token={token}&q={PLAIN}")
        answered(page, PLAIN)
        assert parse_qs(urlsplit(page.url).query) == {"q": [PLAIN]}
        first = hits(page, "Reranked").first.locator("img")
        assert first.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
        later = context.new_page()
        later.goto("/")
        search(later, ANOTHER)


def test_the_page_works_under_a_path_of_a_proxy(chromium: Browser, site: Site) -> None:
    searcher = Searcher(ImageIndex.open(site.index.folder, site.index.reranker))
    web = WebApp(searcher, token="0123456789abcdef")
    inner, asked = web.app, []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(scope["path"])
            scope = {**scope, "path": scope["path"].removeprefix("/pictures")}
        await inner(scope, receive, send)

    web.app = behind
    with serving(web) as served, chromium.new_context(base_url=served.url) as context:
        page = context.new_page()
        page.goto(f"/pictures/?token=0123456789abcdef&q={PLAIN}")
        answered(page, PLAIN)
        first = hits(page, "Reranked").first.locator("img")
        assert first.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
        page.goto("/pictures/?q=%3F!")
        expect(page.get_by_role("alert")).to_contain_text("The text has no words")
    assert len(asked) > 5 and all(path.startswith("/pictures/") for path in asked)


def test_a_server_that_is_gone_at_first_can_be_tried_again(context: BrowserContext) -> None:
    page = context.new_page()
    page.route("**/v1/info", lambda route: route.abort("connectionrefused"))
    page.goto("/?q=" + PLAIN.replace(" ", "+"))
    expect(page.get_by_role("alert")).to_contain_text("The server can’t be reached")
    page.unroute("**/v1/info")
    page.get_by_role("button", name="Try again").click()
    answered(page, PLAIN)


def test_enter_tries_again_where_the_server_was_gone_at_first_and_keeps_the_choices(
    context: BrowserContext,
) -> None:
    page = context.new_page()
    page.route("**/v1/info", lambda route: route.abort("connectionrefused"))
    page.goto("/?q=nothing&k=10&fold=0&top=40")
    expect(page.get_by_role("alert")).to_contain_text("The server can’t be reached")
    page.unroute("**/v1/info")
    search(page, PLAIN)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert parse_qs(urlsplit(page.url).query) == {"q": [PLAIN], "k": ["10"], "fold": ["0"]}
    expect(hits(page, "Reranked")).to_have_count(10)
    expect(page.get_by_label("Fold similar pictures")).not_to_be_checked()


def test_a_slow_first_load_says_so_until_it_is_done(context: BrowserContext) -> None:
    page = context.new_page()
    held: list[Route] = []
    page.route("**/v1/info", lambda route: held.append(route))
    page.goto("/")
    line = page.get_by_role("status")
    expect(line).to_contain_text("Loading…")
    page.get_by_role("searchbox").fill(PLAIN)
    page.keyboard.press("Enter")
    held.pop().continue_()
    answered(page, PLAIN)
    expect(line).to_contain_text("pictures reranked in")
    assert held == [], "Enter asks for nothing twice"
    page.goto("/")
    expect(line).to_contain_text("Loading…")
    held.pop().continue_()
    expect(page.locator("#hint")).to_be_visible()
    expect(line).to_have_text("")


OLDER = (
    "delete URLSearchParams.prototype.size; delete Element.prototype.checkVisibility;"
    "for (const name of ['ariaExpanded', 'ariaHidden', 'ariaPressed', 'role'])"
    " delete Element.prototype[name];"
)  # Firefox before 112, Safari before 17.4


def test_browsers_of_some_years_ago_are_enough(context: BrowserContext, heard: list[str]) -> None:
    context.add_init_script(OLDER)
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#size")).to_have_text("49 pictures")
    search(page, TWICE)
    assert parse_qs(urlsplit(page.url).query) == {"q": [TWICE]}
    item = hits(page, "Reranked").first
    item.get_by_role("button", name="similar", expanded=False).click()
    expect(item.get_by_role("button", name="similar", expanded=True)).to_be_visible()
    item.locator(".picture").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.get_by_label("Fold similar pictures").uncheck()
    page.get_by_role("button", name="Show more").click()
    expect(hits(page, "Reranked")).to_have_count(40)
    assert heard == []


def test_words_typed_while_the_page_loads_stay(context: BrowserContext) -> None:
    page = context.new_page()
    box = page.get_by_role("searchbox")

    def typed_first(route: Route) -> None:
        box.fill(PLAIN)
        route.continue_()

    page.route("**/v1/info", typed_first)
    page.goto("/")
    expect(page.locator("#size")).to_have_text("49 pictures")
    expect(box).to_have_value(PLAIN)
    page.keyboard.press("Enter")
    answered(page, PLAIN)


def test_a_picture_without_a_file_is_said_to_be_missing(page: Page) -> None:
    search(page, NO_FILE)
    item = hits(page, "Reranked").first
    assert texts(item, ".id") == [IDS[NO_FILE]]
    button = item.get_by_role("button", name=f"{IDS[NO_FILE]}: no picture")
    expect(button).to_contain_text("no picture")
    button.click()
    expect(page.get_by_role("dialog").get_by_text("no picture")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#missing")).to_be_hidden()
    expect(page.get_by_role("dialog").get_by_role("img")).to_be_visible()


def test_a_slow_search_says_so_and_its_late_answer_never_replaces_a_newer_one(page: Page) -> None:
    held: list[Route] = []
    page.route(
        "**/v1/search?*",
        lambda route: held.append(route) if "cross+and" in route.request.url else route.continue_(),
    )
    page.get_by_role("searchbox").fill(PLAIN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Searching…")
    search(page, ANOTHER)
    for route in held:
        route.continue_()
    page.wait_for_load_state("networkidle")
    assert len(held) == 1 and names(hits(page, "Reranked"))[0] == IDS[ANOTHER]

"""Claims about a run's report: whole in one file, true to the run, safe with any caption."""

import base64
import io
import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from edje.analysis import candidate_curve, failures, report
from edje.analysis.embedded_gallery import SIDE
from edje.analysis.report_charts import wilson_interval
from edje.errors import EdjeError
from edje.tasks.evaluate import save_report

FORMATS = Path(__file__).parents[1] / "formats" / "0.1.0"
VOID = {"meta", "img", "line", "polygon", "polyline", "br", "link"}
HOSTILE = """</td><script>alert("1")</script><img src=x onerror='alert(2)'> {{ 7*7 }} & "so\""""


class Page(HTMLParser):
    """Elements with their attributes, the text of each, and whether they are well nested."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # innermost element
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(text.split()) for tag, text in self.texts if tag != "style")


@pytest.fixture
def run(tmp_path, make_run) -> Path:
    folder = tmp_path / "shapes" / "run"
    make_run(folder)
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def test_every_figure_of_the_metrics_is_in_a_table_with_a_caption(run):
    page, metrics = Page(report(run)), json.loads((run / "metrics.json").read_text())
    for direction in ("t2i", "i2t"):
        for stage, cutoffs in metrics[direction].items():
            for it in cutoffs.values():
                sign = "+" if stage == "gain" else ""
                ends = f"[{it['low']:{sign}.1f}, {it['high']:{sign}.1f}]"
                shown = f"{it['value']:{sign}.1f} {ends}".replace("-", "−")
                assert shown in page.text, (direction, stage)
    assert len(page.all("table")) == len(page.all("caption")) == 4
    for said in ("text → image, percent", "49,152 bytes per image", "3,812 pairs per second"):
        assert said in page.text
    for name, value in (("device", "cpu"), ("number format", "float32"), ("score", "joint")):
        assert f"{name} {value}" in page.text


def test_it_shows_the_candidate_curve_the_training_and_what_was_fixed(run):
    page = Page(report(run))
    charts = [chart["aria-label"] for chart in page.all("svg")]
    last = candidate_curve(run).groupby("direction").last()
    assert f"reranked from {candidate_curve(run)['reranked'][0]:.1f} to" in charts[0]
    assert f"to {last.loc['t2i', 'reranked']:.1f}" in charts[0]
    titles = [text for tag, text in page.texts if tag == "figcaption"]
    assert titles[2:] == [
        "loss",
        "dev, text → image recall in percent",
        "masked language",
        "matching",
        "text recovery",
    ]
    assert "R@1 from 30.0 to 50.0" in charts[3]
    counts = failures(run).iloc[0]
    head = f"all {counts.queries} {counts.fixed} {counts.broken} {counts.missed}"
    assert head in page.text


def test_it_shows_whether_the_first_hit_is_as_often_right_as_said(run):
    assert "This run has no calibration for its score: train with data.dev_images" in str(
        Page(report(run)).text
    )
    metrics = json.loads((run / "metrics.json").read_text())
    measured = {"ece": 0.03, "ece_by_chance": 0.02, "fitted_on": [50, 500]}
    bins = {"bins": [[0.05, 0.0, 40], [0.45, 0.5, 60], [0.97, 0.925, 120]]}
    galleries = {"galleries": [[500, 0.0312, 0.021, 120], [1234, 0.0456, 0.022, 100]]}
    metrics["calibration"] = {
        "t2i": measured | bins | galleries,
        "i2t": measured | bins | galleries,
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = Page(report(run))
    charts = [chart["aria-label"] for chart in page.all("svg")]
    assert sum("right from 0.0 to 92.5" in chart for chart in charts) == 2
    assert sum("honest from 0.0 to 100.0" in chart for chart in charts) == 2
    assert "500 120 0.031 0.021 1,234 * 100 0.046 0.022" in page.text
    assert "text → image, calibration error" in page.text and "no calibration" not in page.text


def test_nothing_of_a_caption_becomes_part_of_the_page(run):
    queries = table(run, "queries")
    queries["text"] = HOSTILE
    queries.to_parquet(run / "queries.parquet")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {key: HOSTILE for key in ("dataset", "split", "label", "score", "device")}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "overrides.yaml").write_text(json.dumps([HOSTILE]))
    names = {name: f"{name}{HOSTILE}" for name in table(run, "images")["image_id"]}
    images = table(run, "images").assign(image_id=list(names.values()))
    images.to_parquet(run / "images.parquet")
    candidates = table(run, "candidates")
    candidates["candidate_id"] = candidates["candidate_id"].replace(names)
    candidates.to_parquet(run / "candidates.parquet")
    queries["image_id"] = queries["image_id"].replace(names)
    queries.to_parquet(run / "queries.parquet")

    page = Page(report(run))
    assert not page.all("script")
    assert not [key for _, given in page.elements for key in given if key.startswith("on")]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert any(HOSTILE in image["alt"] for image in page.all("img"))
    assert page.text.count(HOSTILE) >= 8  # of captions, title and conditions, as they are


def test_it_asks_nobody_for_anything_and_suits_a_phone_at_night(run):
    path = report(run)
    page, content = Page(path), path.read_text(encoding="utf-8")
    assert not page.all("link") and not page.all("script") and not page.all("iframe")
    assert "@import" not in content and "url(" not in content
    for _, given in page.elements:
        for key in ("src", "href", "srcset", "action", "data"):
            assert given.get(key, "data:").startswith("data:")
    policy = [meta for meta in page.all("meta") if "http-equiv" in meta]
    assert policy[0]["content"].startswith("default-src 'none'; img-src data:;")
    assert any("width=device-width" in (meta.get("content") or "") for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in content
    assert all(chart["viewbox"] and chart["role"] == "img" for chart in page.all("svg"))
    assert path.read_bytes() == report(run).read_bytes()


def test_images_are_small_and_have_a_word_for_who_cannot_see_them(run):
    images = Page(report(run)).all("img")
    assert images
    for image in images:
        _, _, encoded = image["src"].partition(",")
        decoded = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert max(decoded.size) <= SIDE
        assert re.fullmatch(
            r"(first stage|reranked), rank \d: \w+(, the true image)?", image["alt"]
        )
    assert sum("the true image" in image["alt"] for image in images) >= 4


def test_a_page_stays_below_three_megabytes_and_says_what_it_left_out(run):
    draw = np.random.default_rng(0)
    for path in table(run, "images")["path"]:
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    queries = table(run, "queries")
    assert (queries["direction"] == "t2i").sum() == 36
    path = report(run, examples=36)
    shown = len(Page(path).all("article"))
    left_out = re.search(r"(\d+) more examples are left out", path.read_text())
    assert 1e6 < path.stat().st_size < 3e6
    assert shown and int(left_out[1]) == drawn(run) - shown


def drawn(run: Path) -> int:
    outcome = failures(run).iloc[0]
    return int(outcome.fixed + outcome.broken)


def test_a_file_that_is_gone_is_said_to_be_and_without_any_the_gallery_is_left_out(run):
    paths = [Path(path) for path in table(run, "images")["path"]]
    whole = len(Page(report(run)).all("img"))
    paths[0].unlink()
    page = Page(report(run))
    gone = page.text.count("no file")
    assert gone and len(page.all("img")) + gone == whole
    for path in paths[1:]:
        path.unlink()
    page = Page(report(run))
    assert not page.all("img") and "the images are no longer at their paths" in page.text
    (run / "images.parquet").unlink()
    assert "No images.parquet" in Page(report(run)).text


def test_what_the_folder_lacks_is_left_out_with_a_word(run):
    shutil.rmtree(run / "logs")
    (run / "logs").mkdir()  # with a run.log, as of task=evaluate
    assert "This run trained nothing." in Page(report(run)).text
    (run / "checkpoints").mkdir()
    assert "No metrics.csv below" in Page(report(run)).text
    for name in ("candidates", "queries"):
        (run / f"{name}.parquet").unlink()
    page = Page(report(run))
    assert page.text.count("No candidates.parquet in") == 3 and len(page.all("table")) == 3
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["i2t"], metrics["t2i"]["reranked"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(EdjeError, match="holds no reranked recall: evaluate this run"):
        report(run)


def test_a_run_of_an_earlier_version_has_a_report(tmp_path):
    shutil.copytree(FORMATS / "run", tmp_path / "run")
    page = Page(report(tmp_path / "run"))
    assert len(page.all("table")) == 4 and len(page.all("svg")) > 3


def test_a_problem_of_the_report_is_one_line_of_the_log_and_ends_no_run(run, caplog):
    page = report(run)
    with caplog.at_level(logging.WARNING):
        save_report(run, 8)
        assert page.is_file() and not caplog.records
        (run / "metrics.json").write_text("{")
        save_report(run, 8)
        table(run, "queries").assign(text=3.5).to_parquet(run / "queries.parquet")
        (run / "environment.json").write_text("[1]\n[2]")
        save_report(run, 8)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all(r.getMessage().startswith("No report.html: ") for r in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)
    assert not page.exists()  # it would be that of former results


def test_the_interval_of_a_share_worked_by_hand():
    """Of 0 right among 10 the upper end is z² / (10 + z²)."""
    low, high = wilson_interval(np.array([0.0, 0.5]), np.array([10.0, 100.0]))
    assert low == pytest.approx([0.0, 0.4038], abs=1e-4)
    assert high == pytest.approx([3.8415 / 13.8415, 0.5962], abs=1e-4)

"""Captions of any kind go the whole way: cached, trained on, reranked."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from edje.cli import run
from tests.tiny.world import make_world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ODD = [
    "🐕 👩‍👩‍👧!",
    "&lt;b&gt;caf&amp;eacute;&lt;/b&gt;",
    "...",
    "red " * 20_000,
    "كلب أسود، 猫",
    "\x00\ufeff ",
]


def test_odd_captions_are_trained_on_and_ranked(tmp_path: Path) -> None:
    overrides = make_world(tmp_path)
    table = tmp_path / "data" / "captions.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["caption"] = ODD[number // 2 % len(ODD)] if number % 2 else row["caption"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "caption", "split"])
        writer.writeheader()
        writer.writerows(rows)
    run(overrides)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_captions"] == 16
    log = (tmp_path / "run" / "logs" / "run.log").read_text()
    assert "after cleaning, 8 captions of split val are empty" in log  # "..." and the mark
    assert "captions of split train" not in log  # whose odd ones keep letters
    lists = pd.read_parquet(tmp_path / "run" / "candidates.parquet")
    assert lists.final.notna().all()
    logged = pd.read_csv(tmp_path / "run" / "logs" / "part_0" / "metrics.csv")
    assert logged["train/loss"].dropna().between(0, 100).all()

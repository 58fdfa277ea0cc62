"""Claims about runs beside published figures, on metrics written by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from edje.analysis.lists import recompute_metrics
from edje.analysis.paper import paper_table
from edje.errors import EdjeError

LABEL = {
    **{"table": "Flickr30k zero-shot", "dataset": "flickr30k", "images": 1000, "candidates": 10},
    **{"t2i_r1": 86.9, "i2t_r1": 96.4, "first_t2i_r1": None},
}


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1}


def write(folder: Path, label: dict[str, Any] | None, **measured: Any) -> None:
    folder.mkdir(parents=True)
    config = {"name": "paper_tokens_64", "seed": 3, "paper": label}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {
        "t2i": {"reranked": {"recall@1": estimate(85.5)}},
        "i2t": {"reranked": {"recall@1": estimate(97.0)}},
        **{"dataset": "flickr30k", "split": "test", "score": "joint", "shuffled_tokens": False},
        **{"num_images": 1000, "num_candidates": {"t2i": 10, "i2t": 10}},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics | measured))


def test_ours_stand_beside_the_published_figures_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path / "a", LABEL)
    write(tmp_path / "b", None)  # no row of the paper
    table = paper_table(tmp_path)
    assert table[["run", "figure", "published", "ours", "low", "high"]].values.tolist() == [
        ["a", "t2i_r1", 86.9, 85.5, 84.5, 86.5],
        ["a", "i2t_r1", 96.4, 97.0, 96.0, 98.0],
    ]
    assert table["difference"].tolist() == pytest.approx([-1.4, 0.6])
    assert set(table["unlike"]) == {""} and set(table["table"]) == {"Flickr30k zero-shot"}
    assert set(table["name"]) == {"paper_tokens_64"} and set(table["seed"]) == {3}
    assert paper_table(tmp_path / "a")["ours"].tolist() == [85.5, 97.0]  # a run folder itself


def test_a_figure_that_is_not_known_has_no_difference(tmp_path: Path) -> None:
    write(tmp_path / "a", LABEL | {"i2t_r1": None})
    i2t = paper_table(tmp_path).set_index("figure").loc["i2t_r1"]
    assert i2t["ours"] == 97.0 and math.isnan(i2t["published"]) and math.isnan(i2t["difference"])


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"dataset": "coco"}, "dataset coco, not flickr30k"),
        ({"num_images": 1014}, "images 1014, not 1000"),
        ({"split": "val"}, "split val, not test"),  # COCO's has as many images
        ({"shuffled_tokens": True}, "shuffled tokens"),
        ({"num_candidates": {"t2i": 100}}, "candidates 100, not 10"),
    ],
)
def test_what_was_measured_otherwise_is_said_and_not_compared(
    tmp_path: Path, measured: dict[str, Any], said: str
) -> None:
    write(tmp_path / "a", LABEL, **measured)
    write(tmp_path / "b", LABEL)
    table = paper_table(tmp_path).set_index(["run", "figure"])
    assert table.loc[("a", "t2i_r1"), "unlike"] == said
    assert math.isnan(table.loc[("a", "t2i_r1"), "difference"])
    assert table.loc[("b", "t2i_r1"), "difference"] == pytest.approx(-1.4)


def test_each_direction_is_compared_by_its_own_candidates_and_the_score_is_named(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a", LABEL, num_candidates={"t2i": 10, "i2t": 999}, score="sum")
    table = paper_table(tmp_path).set_index("figure")
    assert table["unlike"].to_dict() == {"t2i_r1": "", "i2t_r1": "candidates 999, not 10"}
    assert table["difference"].isna().to_dict() == {"t2i_r1": False, "i2t_r1": True}
    assert set(table["score"]) == {"sum"}


def test_a_cutoff_that_the_metrics_lack_is_computed_from_the_lists(
    tmp_path: Path, make_run
) -> None:
    make_run(tmp_path / "a", pool=6)
    label = {"table": "Full-set retrieval", "candidates": 6, "t2i_r20": 99.0}
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump({"paper": label}))
    row = paper_table(tmp_path).set_index("figure").loc["t2i_r20"]
    expected = recompute_metrics(tmp_path / "a", ks=[20])["t2i"]["reranked"]["recall@20"]
    assert [row["ours"], row["low"], row["high"]] == list(expected.values())
    assert row["difference"] == pytest.approx(expected["value"] - 99.0)


def test_without_a_labelled_run_it_says_how_to_make_one(tmp_path: Path) -> None:
    for label in ([], [None]):
        for one in label:
            write(tmp_path / "a", one)
        with pytest.raises(EdjeError, match="experiment=paper/<row>"):
            paper_table(tmp_path)

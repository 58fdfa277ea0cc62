"""Claims about recall on COCO with further relevant pairs, on made-up lists of its test split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edje.analysis import coco_relevance
from edje.analysis.coco_relevance import _measures
from edje.errors import EdjeError

POOL = 20


@pytest.fixture(scope="module")
def known():
    """The package's relevance: COCO's, CxC's and ECCV Caption's."""
    pytest.importorskip("eccv_caption", reason="eccv-caption is not installed ('edje[coco]')")
    return _measures()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, known) -> Path:
    """Lists of random order with COCO's own pairs at random places, and their annotations."""
    root = tmp_path_factory.mktemp("coco")
    captions = {image: sorted(texts) for image, texts in known.coco_gts["i2t"].items()}
    names = {image: f"COCO_val2014_{image:012d}.jpg" for image in captions}
    ids = {
        text: f"{names[image]}#{place}"
        for image, texts in captions.items()
        for place, text in enumerate(texts)
    }
    entries = [
        {
            "filename": names[image], "split": "test", "cocoid": image,
            "sentences": [{"raw": f"Text {text}, a “t-shirt”.", "sentid": text} for text in texts],
        }
        for image, texts in captions.items()
    ]  # fmt: skip
    (root / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    draws = np.random.default_rng(0)
    parts = []
    for way, queries, gallery, right in (
        ("t2i", ids, names, known.coco_gts["t2i"]),
        ("i2t", names, ids, known.coco_gts["i2t"]),
    ):
        of = list(gallery)
        drawn = draws.integers(0, len(of) - POOL, len(queries)).tolist()
        some = [
            [*right[query], *(one for one in of[at : at + POOL] if one not in right[query])][:POOL]
            for query, at in zip(queries, drawn, strict=True)
        ]
        first = -np.sort(-draws.random((len(queries), POOL)).astype(np.float32))
        shuffled = draws.permuted(np.tile(np.arange(POOL), (len(queries), 1)), axis=1)
        placed = np.take_along_axis(np.array(some), shuffled, axis=1)
        parts.append(
            pd.DataFrame({
                "direction": way, "query_id": np.repeat([*queries.values()], POOL),
                "candidate_id": [gallery[one] for one in placed.ravel().tolist()],
                "relevant": (shuffled < [[len(right[query])] for query in queries]).ravel(),
                "rank_first": np.tile(np.arange(1, POOL + 1), len(queries)),
                "first_stage": first.ravel(),
            })
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table["joint"] = table["final"] = draws.random(len(table)) + 0.5 * table["relevant"]
    table.to_parquet(root / "candidates.parquet")
    rows = [("t2i", name, name.partition("#")[0], 1, f"text {text} a tshirt")
            for text, name in ids.items()]  # fmt: skip
    rows += [("i2t", name, name, 5, None) for name in names.values()]
    columns = ["direction", "query_id", "image_id", "num_relevant", "text"]
    pd.DataFrame(rows, columns=columns).to_parquet(root / "queries.parquet")
    return root


def test_figures_are_those_of_their_definitions(folder: Path, known) -> None:
    table = coco_relevance(folder, folder / "dataset_coco.json")
    lists = pd.read_parquet(folder / "candidates.parquet")
    numbers = {
        f"COCO_val2014_{image:012d}.jpg#{place}": text
        for image, texts in known.coco_gts["i2t"].items()
        for place, text in enumerate(sorted(texts))
    } | {f"COCO_val2014_{image:012d}.jpg": image for image in known.coco_gts["i2t"]}
    for way in ("t2i", "i2t"):
        own = lists[lists["direction"] == way]
        candidates = own["candidate_id"].map(numbers).to_numpy().reshape(-1, POOL)
        queries = own["query_id"].map(numbers).to_numpy()[::POOL].tolist()
        for stage, score in (("first_stage", "first_stage"), ("reranked", "final")):
            best = np.argsort(-own[score].to_numpy().reshape(-1, POOL), axis=1, kind="stable")
            named = np.take_along_axis(candidates, best, axis=1).tolist()
            ranked = dict(zip(queries, named, strict=True))
            for name, right in (("COCO", known.coco_gts[way]), ("CxC", known.cxc_gts[way])):
                for k in (1, 5, 10):
                    hits = [bool({*ranked[q][:k]} & {*some}) for q, some in right.items()]
                    found = table.loc[f"{name} R@{k}", f"{way}.{stage}"]
                    assert found == pytest.approx(100 * np.mean(hits))
            precise, average = [], []
            for query, some in known.eccv_gts[way].items():
                at = [one in some for one in ranked[query][: len(set(some))]]
                precise.append(sum(at) / len(set(some)))
                average.append(
                    sum(sum(at[: n + 1]) / (n + 1) for n, hit in enumerate(at) if hit)
                    / len(set(some))
                )
            for name, values in (("mAP@R", average), ("R-Precision", precise)):
                found = table.loc[f"ECCV {name}", f"{way}.{stage}"]
                assert found == pytest.approx(100 * np.mean(values))
    assert (table["t2i.reranked"] > table["t2i.first_stage"]).all()
    assert (table.loc["CxC R@1"] >= table.loc["COCO R@1"] - 0.2).all()  # CxC lacks 28 captions
    assert list(table.index) == [
        *(f"{name} R@{k}" for name in ("COCO", "CxC") for k in (1, 5, 10)),
        *("ECCV R@1", "ECCV mAP@R", "ECCV R-Precision"),
    ]


def test_other_images_and_other_annotations_are_refused(
    folder: Path, tmp_path: Path, make_run
) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(EdjeError, match=r"run was not evaluated on COCO's 5,000 test images"):
        coco_relevance(tmp_path / "run", folder / "dataset_coco.json")
    with pytest.raises(EdjeError, match=r"none\.json can't be read as Karpathy's dataset_coco"):
        coco_relevance(folder, tmp_path / "none.json")
    told = json.loads((folder / "dataset_coco.json").read_text())
    first = next(entry for entry in told["images"] if "391895" in entry["filename"])
    first["sentences"].reverse()
    (tmp_path / "other.json").write_text(json.dumps(told))
    with pytest.raises(EdjeError, match=r"doesn't have the caption COCO_val2014_000000391895\.jpg"):
        coco_relevance(folder, tmp_path / "other.json")

"""From pictures to answers, with a run's own scores: the Reranker beside candidates.parquet."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from edje import Reranker
from edje.cli import run
from edje.errors import EdjeError
from edje.inference.encoded_images import EncodedImages
from edje.inference.saved_folder import METRICS
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[2]
RUNS = {
    "joint": ["score=joint", "scoring.precision=fp32"],
    "residual": ["score=residual", "scoring.precision=bf16"],
    "sum": ["score=sum", "scoring.precision=fp32", "storage.compressed_codec=int8"],
    "fewer": ["scoring.precision=fp32", "adapter=compression_nested", "adapter.budgets=[2,4]"],
}
AGREE = {"joint": 1e-4, "residual": 1e-3, "sum": 1e-4, "fewer": 1e-4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one world, each of another score, number format or codec."""
    root = tmp_path_factory.mktemp("world")
    overrides = make_world(root)
    for name, changes in RUNS.items():
        more = ["scoring.num_tokens=2"] if name == "fewer" else []
        run(with_changes(overrides, *changes, *more, f"hydra.run.dir={root / name}"))
    return root


class Candidates:
    """What a run scored, by direction, with the places of its pictures."""

    def __init__(self, folder: Path):
        self.lists = pd.read_parquet(folder / "candidates.parquet")
        queries = pd.read_parquet(folder / "queries.parquet")
        self.texts = queries[queries.direction == "t2i"].set_index("query_id").text
        self.paths = pd.read_parquet(folder / "images.parquet").set_index("image_id").path

    def pairs(self, direction: str) -> tuple[list[tuple[object, object]], np.ndarray]:
        rows = self.lists[self.lists.direction == direction]
        queries, candidates = rows.query_id, rows.candidate_id
        if direction == "t2i":
            pairs = zip(queries.map(self.texts), candidates.map(self.paths), strict=True)
        else:
            images = [Path(path) for path in queries.map(self.paths)]
            pairs = zip(images, candidates.map(self.texts), strict=True)
        return list(pairs), rows.final.to_numpy()


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("name", RUNS)
def test_pictures_and_texts_have_the_scores_of_the_run(
    world: Path, name: str, direction: str
) -> None:
    reranker = Reranker.from_pretrained(world / name, device="cpu")
    pairs, expected = Candidates(world / name).pairs(direction)
    found = reranker.predict(pairs)
    assert found.dtype == np.float32 and len(found) == len(expected) > 10
    np.testing.assert_allclose(found, expected, atol=AGREE[name], rtol=0)


@pytest.mark.parametrize("name", ["joint", "sum"])
def test_a_list_is_ranked_as_the_run_ranked_it(world: Path, name: str) -> None:
    reranker = Reranker.from_pretrained(world / name, device="cpu")
    of_run = Candidates(world / name)
    lists = of_run.lists[of_run.lists.direction == "t2i"]
    for query, rows in list(lists.groupby("query_id"))[:4]:
        paths = [of_run.paths[one] for one in rows.candidate_id]
        hits = reranker.rank(of_run.texts[query], paths, return_documents=True)
        assert list(hits[0])[:2] == ["corpus_id", "score"]
        assert [hit["text"] for hit in hits] == [paths[hit["corpus_id"]] for hit in hits]
        best = sorted(rows.final, reverse=True)
        np.testing.assert_allclose([hit["score"] for hit in hits], best, atol=AGREE[name], rtol=0)
        top = reranker.rank(of_run.texts[query], paths, 2)
        assert [hit["corpus_id"] for hit in top] == [hit["corpus_id"] for hit in hits[:2]]


def test_encoded_images_are_ranked_like_their_pictures(world: Path) -> None:
    reranker = Reranker.from_pretrained(world / "sum", device="cpu")
    paths = list(Candidates(world / "sum").paths)
    encoded = reranker.encode(paths, batch_size=3)
    assert isinstance(encoded, EncodedImages) and len(encoded) == len(paths)
    assert encoded.tokens.shape[1:] == (4, 32)
    torch.testing.assert_close(encoded.embeddings.norm(dim=1), torch.ones(len(paths)))
    words = reranker.encode_text(["a red star", "blue"])
    torch.testing.assert_close(words.norm(dim=1), torch.ones(2))
    expected = reranker.rank("a red star", paths)
    kinds = [Image.open(paths[0]), Path(paths[1]).read_bytes(), np.asarray(Image.open(paths[2]))]
    mixed = [*kinds, *encoded[3:]]
    for documents in (encoded, list(encoded), encoded[torch.arange(len(paths))], mixed):
        found = reranker.rank("a red star", documents)
        assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
        np.testing.assert_allclose(
            [hit["score"] for hit in found], [hit["score"] for hit in expected], atol=1e-4
        )


def test_what_comes_again_is_encoded_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker.from_pretrained(world / "residual", device="cpu")
    paths = list(Candidates(world / "residual").paths)[:3]
    seen: list[int] = []
    encoder, words = reranker.picture_encoder, reranker.encode_text
    encode = encoder.images
    monkeypatch.setattr(encoder, "images", lambda s, *o: seen.append(len(s)) or encode(s, *o))
    monkeypatch.setattr(reranker, "encode_text", lambda s: seen.append(len(s)) or words(s))
    reranker.predict([(text, path) for text in ("red", "blue") for path in paths * 2])
    assert seen == [3, 2]


def test_one_pair_has_a_number_and_none_has_none(world: Path) -> None:
    reranker = Reranker.from_pretrained(world / "joint", device="cpu")
    path = Candidates(world / "joint").paths.iloc[0]
    one = reranker.predict(("red", path))
    assert np.ndim(one) == 0 and reranker.predict([("red", path)]) == [one]
    assert reranker.predict([]).shape == (0,) and reranker.rank("red", []) == []
    assert reranker.predict([("red", path)], convert_to_tensor=True).shape == (1,)


def test_documents_and_pairs_may_come_from_a_generator(world: Path) -> None:
    reranker = Reranker.from_pretrained(world / "joint", device="cpu")
    paths = list(Candidates(world / "joint").paths)[:3]
    expected = reranker.rank("red", paths, return_documents=True)
    assert reranker.rank("red", (path for path in paths), return_documents=True) == expected
    found = reranker.predict(("red", path) for path in paths)
    assert sorted(found, reverse=True) == [hit["score"] for hit in expected]
    assert len(reranker.encode(path for path in paths)) == 3


def test_counts_that_mean_nothing_are_refused(world: Path) -> None:
    reranker = Reranker.from_pretrained(world / "joint", device="cpu")
    paths = list(Candidates(world / "joint").paths)[:2]
    for batch_size in (0, -1):
        with pytest.raises(EdjeError, match=rf"batch_size={batch_size}: expected .* 1 or more"):
            reranker.encode(paths, batch_size=batch_size)
    with pytest.raises(EdjeError, match="top_k=-1: expected a whole number of 0 or more"):
        reranker.rank("red", paths, -1)
    assert reranker.rank("red", paths, 0) == []


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        ("red", "a.jpg", "got the text 'a.jpg' as documents; expected a list"),
        ("red", [3], "got a pair of the text 'red' and a int; expected a text as query"),
        (Path("a.jpg"), [Path("b.jpg")], r"got a pair of a.jpg and b.jpg; expected a text"),
        ("red", ["absent.jpg"], "absent.jpg can't be read as a picture"),
    ],
)
def test_what_is_no_query_or_document_is_named(
    world: Path, query: object, documents: object, message: str
) -> None:
    reranker = Reranker.from_pretrained(world / "joint", device="cpu")
    with pytest.raises(EdjeError, match=message):
        reranker.rank(query, documents)  # type: ignore[arg-type]


def test_images_encoded_by_another_reranker_are_refused(world: Path) -> None:
    few = Reranker.from_pretrained(world / "fewer", device="cpu")
    assert few.model.adapter.num_tokens == 2  # as its run scored
    encoded = few.encode([Candidates(world / "fewer").paths.iloc[0]])
    other = Reranker.from_pretrained(world / "fewer", device="cpu", num_tokens=4)
    with pytest.raises(EdjeError, match=r"encoded to \(2, 32\) .*reads \(4, 32\)"):
        other.rank("red", encoded)


def test_the_former_name_still_loads_with_a_warning(world: Path) -> None:
    with pytest.warns(FutureWarning, match="from_pretrained"):
        reranker = Reranker.load(world / "residual")
    assert reranker.precision == torch.float32


ELSEWHERE = """
import sys
blocked = ["lightning", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "datasets"]
sys.modules |= dict.fromkeys(blocked)
import json
import edje

torch_load = __import__("torch").load
__import__("torch").load = None  # nothing pickled is read
folder, asked = sys.argv[1:]
asked = json.loads(open(asked).read())
reranker = edje.Reranker.from_pretrained(folder, device="cpu")
print(json.dumps([float(score) for score in reranker.predict(asked)]))
"""


@pytest.mark.parametrize("name", ["sum"])
def test_a_saved_reranker_scores_alike_where_its_run_and_the_tower_are_gone(
    world: Path, tmp_path: Path, name: str
) -> None:
    """In a fresh process that can import neither lightning nor hydra."""
    home = tmp_path / "home"
    shutil.copytree(world, home, ignore=shutil.ignore_patterns("cache"))
    for file in (home / name / "checkpoints").iterdir():  # the tower's place is in them
        content = torch.load(file, weights_only=True)
        content["edje_config"] = content["edje_config"].replace(str(world), str(home))
        torch.save(content, file)
    pairs = [(text, str(path)) for text, path in Candidates(world / name).pairs("t2i")[0][:10]]
    reranker = Reranker.from_pretrained(home / name, device="cpu")
    expected = reranker.predict(pairs)
    reranker.save_pretrained(tmp_path / "saved")
    shutil.rmtree(home)
    (tmp_path / "asked.json").write_text(json.dumps(pairs))
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, tmp_path / "elsewhere.py", tmp_path / "moved", tmp_path / "asked.json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5, rtol=0)


def test_a_saved_folder_holds_no_place_of_the_machine_and_says_how_good_it_is(
    world: Path, tmp_path: Path
) -> None:
    Reranker.from_pretrained(world / "sum", device="cpu").save_pretrained(tmp_path / "saved")
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert files >= {"model.safetensors", "config.json", "tokenizer.json", "README.md", METRICS}
    assert not {path for path in (tmp_path / "saved").rglob("*") if path.suffix == ".ckpt"}
    for path in (tmp_path / "saved").iterdir():
        if path.suffix in (".json", ".md"):
            assert str(world) not in path.read_text(), path.name
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert about["reranker"]["adapter"]["target"] == "compression"
    assert about["run"]["backbone"]["_target_"] == "huggingface"
    metrics = json.loads((world / "sum" / "metrics.json").read_text())
    recall = metrics["t2i"]["reranked"]["recall@1"]
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"{recall['value']:.1f} [{recall['low']:.1f}, {recall['high']:.1f}]" in card
    assert "trained on folder train" in card and "144 bytes" in card  # 4 × (32 + 4)
    assert (tmp_path / "saved" / "model.safetensors").stat().st_mode & 0o044


def test_every_finished_training_leaves_a_saved_reranker(world: Path) -> None:
    pairs, expected = Candidates(world / "joint").pairs("t2i")
    left = Reranker.from_pretrained(world / "joint" / "pretrained", device="cpu")
    np.testing.assert_allclose(left.predict(pairs), expected, atol=1e-4, rtol=0)
    assert left.metrics == json.loads((world / "joint" / "metrics.json").read_text())
    assert not (world / "joint" / "pretrained" / "backbone").exists()  # named by its path


def test_a_saved_reranker_is_evaluated_like_its_run(world: Path, tmp_path: Path) -> None:
    for name, checkpoint in (("a", "joint"), ("b", "joint/pretrained")):
        run(
            [
                "task=evaluate",
                f"checkpoint={world / checkpoint}",
                *(["data.root=" + str(world / "data")] if name == "b" else []),
                f"cache_dir={world / 'cache'}",
                f"hydra.run.dir={tmp_path / name}",
            ]
        )
    one, other = (pd.read_parquet(tmp_path / name / "candidates.parquet") for name in "ab")
    pd.testing.assert_frame_equal(one, other)


def test_another_folder_is_never_overwritten(world: Path, tmp_path: Path) -> None:
    reranker = Reranker.from_pretrained(world / "joint", device="cpu")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EdjeError, match="holds something other than a saved reranker"):
        reranker.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    reranker.save_pretrained(tmp_path / "new")
    reranker.save_pretrained(tmp_path / "new")  # again, in its place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "notes.txt"]


@pytest.mark.parametrize("damage", ["cut", "no tokenizer", "later"])
def test_a_damaged_saved_folder_says_what_is_wrong(
    world: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(world / "joint" / "pretrained", folder)
    if damage == "cut":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**about, "format": 99}))
    message = "has format 99" if damage == "later" else "can't be read"
    with pytest.raises(EdjeError, match=message):
        Reranker.from_pretrained(folder)

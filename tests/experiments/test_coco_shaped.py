"""Claims about the synthetic data of COCO's shape, and the run over it."""

import sys
from pathlib import Path

import pytest
from PIL import Image

import edje
from edje.backbones.huggingface import HuggingFaceBackbone
from edje.data.sources.karpathy import KarpathySource
from experiments.scale.coco_shaped import COUNTS, EMBEDDING, make_data, make_tower

ROOT = Path(edje.__file__).parents[1]
SHARE = 0.001


def test_a_share_of_it_has_that_share_of_coco_s_images_and_captions(tmp_path: Path) -> None:
    make_data(tmp_path, SHARE)
    source = KarpathySource(
        name="coco", root=str(tmp_path), annotations="dataset_coco.json", images=["."]
    )
    train, test = source.read("train"), source.read("test")
    counted = [sum(column) for column in zip(*COUNTS.values(), strict=True)]
    assert counted == [123_287, 616_767]
    assert (len(train.images), len(train.captions)) == (83 + 31, 5 * 114)
    assert (len(test.images), len(test.captions)) == (5, 25)
    assert len({Image.open(image.path).tobytes() for image in train.images}) == len(train.images)


def test_its_tower_has_embeddings_of_full_width(tmp_path: Path) -> None:
    make_tower(tmp_path, ROOT / "edje/assets/shapes/backbone")
    backbone = HuggingFaceBackbone(pretrained=str(tmp_path))
    assert backbone.encode_texts(["a red square and a blue square"]).shape == (1, EMBEDDING)
    assert (backbone.num_tokens, backbone.token_width) == (64, 64)


@pytest.mark.clusters
def test_the_road_trains_and_evaluates_a_share_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments/scale"), *sys.path])
    from experiments.scale.road import main

    main(tmp_path, SHARE, 1, ["train, score=sum", "evaluate"])
    _, rows = capsys.readouterr().out.split("|---|---|---|---|---|\n")
    rows = [row.strip("|").split("|") for row in rows.splitlines()]
    assert [row[0].strip() for row in rows] == ["train, score=sum", "evaluate"]
    assert all(0.2 < float(row[2]) < 6 for row in rows)

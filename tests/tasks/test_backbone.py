"""task=backbone: a dual encoder from scratch, by the experiment that trains the real one."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.config.locations import conf_folder, register_resolvers
from edje.config.validate import validate
from edje.errors import EdjeError
from edje.tasks.backbone import run


def configuration(root: Path, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose(
            "run",
            [
                "experiment=shapes_backbone",
                f"cache_dir={root / 'cache'}",
                "data.train_images=48",
                "data.val_images=12",
                "data.test_images=12",
                "data.image_side=16",
                "backbone.width=32",
                "backbone.num_heads=2",
                "backbone.hidden_width=48",
                "backbone.vision_layers=1",
                "backbone.text_layers=1",
                "backbone.image_size=16",
                "backbone.patch_size=4",
                "loader.batch_size=12",
                "trainer.max_steps=4",
                "trainer.accelerator=cpu",
                "trainer.precision=32-true",
                "trainer.log_every_n_steps=1",
                "+trainer.enable_progress_bar=false",
                "scoring.dev_every=2",
                *overrides,
            ],
        )
    validate(cfg)
    return cfg


def test_it_leaves_a_backbone_that_loads_its_figures_and_its_curve(tmp_path: Path) -> None:
    figure = run(configuration(tmp_path), tmp_path / "run")
    backbone = HuggingFaceBackbone(pretrained=str(tmp_path / "run" / "backbone"))
    assert backbone.num_tokens == 16 and backbone.token_width == 32
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["t2i"]["first_stage"]["recall@1"]["value"] == figure
    assert metrics["num_captions"] == 60 and metrics["split"] == "val"
    (curve,) = (tmp_path / "run").rglob("metrics.csv")
    assert "val/recall@1" in curve.read_text().splitlines()[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    def weights(folder: str, *overrides: str) -> torch.Tensor:
        run(configuration(tmp_path, *overrides), tmp_path / folder)
        backbone = HuggingFaceBackbone(pretrained=str(tmp_path / folder / "backbone"))
        return torch.cat([weight.flatten() for weight in backbone.model.parameters()])

    one = weights("one")
    assert torch.equal(one, weights("again"))
    assert not torch.equal(one, weights("other", "seed=1"))


def test_images_with_unequal_numbers_of_captions_are_refused(tmp_path: Path) -> None:
    cfg = configuration(tmp_path)
    run(configuration(tmp_path, "trainer.max_steps=1"), tmp_path / "first")
    (annotations,) = (tmp_path / "cache").rglob("dataset_shapes.json")
    content = json.loads(annotations.read_text())
    moved = content["images"][0]["sentences"].pop()
    content["images"][1]["sentences"].append(moved | {"imgid": 1})
    annotations.write_text(json.dumps(content))
    with pytest.raises(EdjeError, match=r"have 4 to 6 captions"):
        run(cfg, tmp_path / "second")


def test_images_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    run(configuration(tmp_path, "trainer.max_steps=1"), tmp_path / "first")
    image = min((tmp_path / "cache").rglob("*train*.png"))
    image.write_bytes(image.read_bytes()[:60])
    cfg = configuration(tmp_path, "trainer.max_steps=1")
    with pytest.raises(EdjeError, match="1 of 48 images of split 'train' are not readable"):
        run(cfg, tmp_path / "second")
    cfg.data.bad_images = "skip"
    run(cfg, tmp_path / "second")
    assert "(47 images)" in (tmp_path / "second" / "metrics.json").read_text()

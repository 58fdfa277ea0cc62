"""What a training's arguments add to the configuration in its checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edje.backbones.loading import load_backbone
from edje.data.sources.folder import FolderSource
from edje.inference.checkpoint import Checkpoint
from edje.inference.run_choices import backbone_of, choices_of
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.pipeline.preparation import Training
from edje.pipeline.recorded import of_evaluation, recorded
from edje.pipeline.scoring import Scoring
from edje.pipeline.storage import Storage
from edje.training.optimisation import Optimisation
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import COMPRESSION, tiny_checkpoint
from tests.tiny.towers import make_siglip
from tests.tiny.world import make_images


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip(tmp_path_factory.mktemp("tower"))


def training(**choices: Any) -> Training:
    return Training(
        language_model=tiny_language_model,
        adapter=COMPRESSION,
        objectives={"matching": Matching()},
        negatives=HardNegatives(),
        optimisation=Optimisation(warmup_steps=0),
        trainer={"max_steps": 4, "accelerator": "cpu", "devices": 1},
        **choices,
    )


def written(given: Training, backbone: Any, storage: Storage) -> Checkpoint:
    checkpoint = replace(tiny_checkpoint(), config=given.config, backbone=backbone.identity())
    return replace(checkpoint, config=recorded(checkpoint, given, backbone, storage))


@pytest.mark.parametrize("config", ["{}", "", "{score: joint, scoring: {precision: fp16}}"])
def test_the_choices_that_scoring_depends_on_are_the_trainings(tower: Path, config: str) -> None:
    backbone = load_backbone("siglip2_b16_384", pretrained=tower)
    scoring = Scoring(precision="fp32", num_tokens=2)
    given = training(score="sum", scoring=scoring, config=config)
    storage = Storage(raw_codec="int8", compressed_codec="int4", tower_precision="fp32")
    found = choices_of(checkpoint := written(given, backbone, storage))
    assert (found.score, str(found.precision), found.num_tokens) == ("sum", "torch.float32", 2)
    assert (found.raw_codec, found.compressed_codec) == ("int8", "int4")
    assert found.tower_precision == "fp32"
    assert backbone_of(checkpoint).identity() == backbone.identity()


def test_what_a_configuration_says_besides_stays(tower: Path) -> None:
    backbone = load_backbone("siglip2_b16_384", pretrained=tower)
    config = "{name: mine, backbone: {_target_: seen}, scoring: {candidates: 5}}"
    checkpoint = written(training(config=config), backbone, Storage())
    values = yaml.safe_load(checkpoint.config)
    assert (values["name"], values["backbone"]) == ("mine", {"_target_": "seen"})
    assert values["scoring"]["candidates"] == 5
    again = training(config=checkpoint.config)
    assert written(again, backbone, Storage()).config == checkpoint.config


def test_a_backbone_that_was_built_otherwise_or_of_objects_is_left_out(tower: Path) -> None:
    backbone: Any = load_backbone("siglip2_b16_384", pretrained=tower)
    vars(backbone)["_built_from"]["vision"] = object()
    assert "backbone" not in yaml.safe_load(written(training(), backbone, Storage()).config)
    del vars(backbone)["_built_from"]
    assert "backbone" not in yaml.safe_load(written(training(), backbone, Storage()).config)


def test_files_that_come_with_edje_are_named_wherever_it_is_installed() -> None:
    checkpoint = written(training(), load_backbone("shapes"), Storage())
    assert yaml.safe_load(checkpoint.config)["backbone"]["pretrained"].startswith("${asset:")


def folder_source(root: Path, split: str = "val") -> FolderSource:
    return FolderSource(name="mine", root=str(root), images="images", split=split)


def test_an_evaluations_configuration_is_the_rerankers_and_how_it_was_scored(
    tmp_path: Path,
) -> None:
    data = folder_source(make_images(tmp_path / "data"))
    config = "{seed: 3, data: {split: val}, scoring: {precision: fp16, examples: 2}, task: run}"
    found = yaml.safe_load(
        of_evaluation(replace(tiny_checkpoint(), config=config), Scoring(candidates=7), "sum", data)
    )
    assert found["adapter"].keys() == {"_target_", *COMPRESSION.choices}
    assert "data" not in found  # of the training
    assert (found["evaluated"]["dataset"], found["evaluated"]["split"]) == ("mine", "val")
    assert (found["seed"], found["task"], found["score"]) == (3, "evaluate", "sum")
    scoring = {"precision": "bf16", "examples": 2, "candidates": 7, "num_tokens": None}
    assert scoring.items() <= found["scoring"].items()


def test_evaluations_of_other_weights_or_other_data_have_another_configuration(
    tmp_path: Path,
) -> None:
    root = make_images(tmp_path / "data")
    first, second = tiny_checkpoint(), tiny_checkpoint()
    second.model.load_state_dict(first.model.state_dict())

    def text(checkpoint: Checkpoint, data: FolderSource) -> str:
        return of_evaluation(checkpoint, Scoring(), "joint", data)

    usual = text(first, folder_source(root))
    assert text(second, folder_source(root)) == usual
    next(second.model.parameters()).data += 1
    others = {text(second, folder_source(root)), text(first, folder_source(root, "train"))}
    lines = (root / "captions.csv").read_text().splitlines(keepends=True)
    (root / "captions.csv").write_text("".join(lines[:-2]))  # without the last image of val
    others.add(text(first, folder_source(root)))
    assert len(others) == 3 and usual not in others


def test_an_adapter_is_written_alike_by_its_short_and_by_its_dotted_name(tmp_path: Path) -> None:
    model, data = tiny_checkpoint(), folder_source(make_images(tmp_path / "data"))
    dotted = "edje.models.adapters.TokenCompressionAdapter"
    texts = {
        of_evaluation(
            replace(model, config="", adapter=replace(COMPRESSION, target=target)),
            Scoring(),
            "joint",
            data,
        )
        for target in ("compression", dotted)
    }
    assert len(texts) == 1 and f"_target_: {dotted}" in texts.pop()

"""Claims about what a composition starts from for checkpoints that carry no configuration."""

from pathlib import Path

import pytest
import torch

from edje.config.of_published import composition_for
from edje.errors import EdjeError
from edje.inference.checkpoint import save_checkpoint
from tests.tiny.rerankers import tiny_checkpoint


@pytest.fixture
def published(tmp_path) -> Path:
    torch.save({"model": {"vision_projection.query": torch.zeros(1, 2, 3)}}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.fixture
def ours(tmp_path) -> Path:
    content = {"state_dict": {}, "edje": {}, "edje_config": "name: shapes\nbackbone: {}\n"}
    torch.save(content, tmp_path / "ours.ckpt")
    return tmp_path / "ours.ckpt"


def test_a_published_one_starts_from_its_experiment_unless_another_is_chosen(published) -> None:
    given = f"checkpoint={published}"
    assert composition_for([given]) == ["experiment=published"]
    assert composition_for([given, "name=mine"]) == ["experiment=published"]
    assert composition_for([given, "experiment=folder"]) == []


def test_one_of_ours_gives_its_name_unless_another_is_given(ours) -> None:
    assert composition_for([f"checkpoint={ours}"]) == ["++name='shapes'"]
    assert composition_for([f"checkpoint={ours}", "name=mine"]) == []
    assert composition_for(["checkpoint=nowhere"]) == composition_for([]) == []


def test_one_of_ours_without_a_name_gives_none(ours) -> None:
    content = torch.load(ours, weights_only=True) | {"edje_config": "backbone: {}\n"}
    torch.save(content, ours.with_name("nameless.ckpt"))
    assert composition_for([f"checkpoint={ours.with_name('nameless.ckpt')}"]) == []


def test_one_saved_as_ours_without_a_configuration_counts_as_published(tmp_path) -> None:
    save_checkpoint(tiny_checkpoint(), tmp_path / "named.ckpt")
    assert composition_for([f"checkpoint={tmp_path / 'named.ckpt'}"]) == ["experiment=published"]


def test_a_sweep_takes_one_kind_or_the_other(published, ours) -> None:
    assert composition_for([f"checkpoint={published},{published}"]) == ["experiment=published"]
    assert composition_for([f"checkpoint={ours},{ours}"]) == []
    with pytest.raises(EdjeError, match=r"a\.pth carries no configuration.* Run one sweep"):
        composition_for([f"checkpoint={ours},{published}"])

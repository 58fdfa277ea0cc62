"""Claims about the data that a training's ranks read."""

import pytest

from edje.errors import EdjeError
from edje.training import one_training_set
from edje.training.one_training_set import OneTrainingSet
from tests.tiny.training import module, quiet_trainer


@pytest.fixture
def three_ranks(monkeypatch) -> dict[str, str]:
    """What rank 2 reads; the first two read what this process does."""
    third = {}
    monkeypatch.setattr(one_training_set, "num_ranks", lambda: 3)
    monkeypatch.setattr(one_training_set, "of_every_rank", lambda own: [own, own, third["reads"]])
    return third


def test_ranks_that_read_different_data_are_refused(tmp_path, three_ranks):
    three_ranks["reads"] = "15 images with 75 captions (digest bb)"
    said = (
        r"data: 16 images with 80 captions \(digest aa\) on 2 of 3 ranks, such as 0; "
        r"15 images with 75 captions \(digest bb\) on 1 of 3 ranks, such as 2\. .*data\.root"
    )
    check = OneTrainingSet(lambda: "16 images with 80 captions (digest aa)")
    with pytest.raises(EdjeError, match=said):
        check.on_fit_start(quiet_trainer(tmp_path, 1), module(1))


def test_ranks_that_read_the_same_train(tmp_path, three_ranks):
    three_ranks["reads"] = "the same"
    OneTrainingSet(lambda: "the same").on_fit_start(quiet_trainer(tmp_path, 1), module(1))


def test_a_single_rank_takes_no_digest(tmp_path):
    OneTrainingSet(pytest.fail).on_fit_start(quiet_trainer(tmp_path, 1), module(1))

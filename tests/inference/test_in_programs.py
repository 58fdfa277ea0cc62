"""A reranker gives the same whatever a program does with torch, and can be copied after use."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edje.errors import EdjeError
from edje.inference.encoded_images import EncodedImages
from edje.inference.reranker import Reranker

QUERY = "a red circle left of a blue square"
PICTURES = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch with another default."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def used() -> Reranker:
    found = Reranker.from_pretrained("shapes", device="cpu", precision="fp32")
    found.rank(QUERY, PICTURES)
    return found


@pytest.mark.parametrize("is_fresh", [False, True])
@pytest.mark.parametrize("setting", ["autocast", "float64", "bfloat16", "meta"])
def test_the_surrounding_program_changes_nothing(
    used: Reranker, caplog: pytest.LogCaptureFixture, setting: str, is_fresh: bool
) -> None:
    expected, encoded = used.rank(QUERY, PICTURES), used.encode(PICTURES)
    pairs = [(QUERY, picture) for picture in PICTURES]
    scores = used.predict(pairs)
    within = {
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "float64": default_dtype(torch.float64),
        "bfloat16": default_dtype(torch.bfloat16),
        "meta": torch.device("meta"),
    }[setting]
    with within:
        chosen = {"device": "cpu", "precision": "fp32"}
        one = Reranker.from_pretrained("shapes", **chosen) if is_fresh else used
        assert one.rank(QUERY, PICTURES) == expected
        assert (one.predict(pairs) == scores).all()
        again = one.encode(PICTURES)
        words = one.encode_text([QUERY])
    assert torch.equal(again.tokens, encoded.tokens)
    assert torch.equal(again.embeddings, encoded.embeddings)
    assert torch.equal(words, used.encode_text([QUERY]))
    assert "plain" not in caplog.text  # that torch lacks packed layers


def test_after_use_a_reranker_is_copied_and_sent(used: Reranker) -> None:
    expected = used.rank(QUERY, PICTURES)
    for other in (pickle.loads(pickle.dumps(used)), copy.deepcopy(used)):
        assert other.rank(QUERY, PICTURES) == expected
        assert other.model is not used.model


def test_it_says_where_it_computes_and_moves(used: Reranker) -> None:
    assert used.device == torch.device("cpu") and used.to("cpu") is used
    with pytest.raises(EdjeError, match="device=nowhere: is not available here"):
        used.to("nowhere")


def test_embeddings_of_another_width_are_refused_where_they_are_read(used: Reranker) -> None:
    images = used.encode(PICTURES)
    wrong = EncodedImages(images.embeddings[:, 1:], images.tokens)
    assert used.rank(QUERY, wrong) == used.rank(QUERY, images)  # score=joint doesn't
    summing = copy.copy(used)
    summing.choices = replace(used.choices, score="sum")
    with pytest.raises(EdjeError, match=r"got embeddings of \d+ numbers, but this reranker's have"):
        summing.rank(QUERY, wrong)


class AsEvaluatorsCall:
    """The calls and attributes of sentence-transformers' evaluators (6.2)."""

    def __call__(self, model: Any, pairs: list[list[Any]]) -> Any:
        scores = model.predict(
            pairs, prompt_name=None, batch_size=64, convert_to_numpy=True, show_progress_bar=False
        )
        assert model.num_labels == 1
        model.model_card_data.set_evaluation_metrics(self, {"map": 1.0}, -1, -1)
        return scores


def test_it_can_be_called_as_evaluators_of_cross_encoders_call(used: Reranker) -> None:
    pairs = [[QUERY, picture] for picture in PICTURES]
    assert (AsEvaluatorsCall()(used, pairs) == used.predict(pairs)).all()
    assert used.rank(QUERY, PICTURES, prompt_name=None, prompt=None) == used.rank(QUERY, PICTURES)
    for given in ({"prompt_name": "query"}, {"prompt": "find: "}):
        for call in (partial(used.predict, pairs), partial(used.rank, QUERY, PICTURES)):
            with pytest.raises(EdjeError, match="trained on texts without a prompt"):
                call(**given)


def test_the_evaluators_of_sentence_transformers_measure_a_reranker(
    used: Reranker, tmp_path: Path
) -> None:
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for picture, path in zip(PICTURES, paths, strict=True):
        picture.save(path)
    best = paths[used.rank(QUERY, paths)[0]["corpus_id"]]
    sample = {"query": QUERY, "positive": [best], "documents": paths}
    found = evaluation.CrossEncoderRerankingEvaluator([sample])(used)
    assert found["map"] == found["mrr@10"] == found["ndcg@10"] == 1
    pairs, scores = [[QUERY, path] for path in paths], [0.0, 1.0, 2.0]
    found = evaluation.CrossEncoderCorrelationEvaluator(pairs, scores)(used)
    assert set(found) == {"pearson", "spearman"}
    labels = [int(path == best) for path in paths]
    found = evaluation.CrossEncoderClassificationEvaluator(pairs, labels)(used)
    assert found["accuracy"] == 1


def test_a_row_is_sent_without_the_others() -> None:
    images = EncodedImages(torch.randn(50, 8), torch.randn(50, 4, 16))
    whole = len(pickle.dumps(images))
    for some in (images[3:4], images[3]):
        assert len(pickle.dumps(some)) < whole / 10
        assert torch.equal(pickle.loads(pickle.dumps(some)).tokens, some.tokens)


@pytest.mark.parametrize(
    "bad", [b"xx", np.zeros((2, 2), np.float32), Path("absent.png"), bytearray(b"xx")], ids=type
)
def test_what_can_not_be_read_is_told_by_its_place_in_the_callers_list(
    used: Reranker, bad: Any
) -> None:
    red, blue, _ = PICTURES
    rows = used.encode(PICTURES)
    documents = [red, rows[1], red, blue, bad]  # of which the encoder gets three
    said = r"^picture 4 \(from 0\): (a picture of 2 bytes|absent\.png|an array of float32) "
    for call in (
        partial(used.encode, [red, blue, red, red, bad]),
        partial(used.encode, [red, blue, red, red, bad], batch_size=1),
        partial(used.rank, QUERY, documents),
        partial(used.predict, [(QUERY, one) for one in documents]),
    ):
        with pytest.raises(EdjeError, match=said) as raised:
            call()
        sent = pickle.loads(pickle.dumps(raised.value))  # as from a worker of a pool
        assert str(sent) == str(raised.value)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_text_or_pair_is_told_by_its_place(used: Reranker) -> None:
    for call, said in (
        (partial(used.encode_text, ["a", None]), r"^number 1 \(from 0\): got a NoneType among tex"),
        (
            partial(used.rank, QUERY, [PICTURES[0], 5]),
            r"^pair 1 \(from 0\): got a pair of the text",
        ),
        (
            partial(used.predict, [(QUERY, PICTURES[0]), "a"]),
            r"^pair 1 \(from 0\): got the text 'a'",
        ),
    ):
        with pytest.raises(EdjeError, match=said):
            call()


def test_a_score_that_is_no_number_is_refused(used: Reranker) -> None:
    images = used.encode(PICTURES)
    tokens = images.tokens.clone()
    tokens[1] = torch.nan
    with pytest.raises(EdjeError, match=r"image 1 \(from 0\): the score isn't a finite number"):
        used.rank(QUERY, EncodedImages(images.embeddings, tokens))

"""Claims about the endpoints that others' tools speak."""

import base64
import io
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from edje import ImageIndex, Reranker
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp
from tests.serving.served import ODD, TWIN, Served

QUERY = "a red circle above a blue square"


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_raw_scores_are_those_of_rank_in_its_order(
    served: Served, shapes: Reranker, gallery: Path, index: ImageIndex
) -> None:
    ids = [name for name in index.ids() if name not in ("memory", TWIN)]
    ranked = shapes.rank(QUERY, [gallery / name for name in ids])
    given = {"query": QUERY, "texts": ids, "raw_scores": True}
    found = served.post("/rerank", given).json
    assert [one["index"] for one in found] == [row["corpus_id"] for row in ranked]
    assert [one["score"] for one in found] == pytest.approx(
        [row["score"] for row in ranked], abs=1e-4
    )
    given = {"query": QUERY, "documents": ids, "raw_scores": True}
    results = served.post("/v1/rerank", given).json["results"]
    assert [(one["index"], one["relevance_score"]) for one in results] == [
        (one["index"], one["score"]) for one in found
    ]


def test_scores_are_calibrated_probabilities(served: Served, index: ImageIndex) -> None:
    ids = index.ids()
    expected = {hit.id: hit.probability for hit in index.rerank(QUERY, ids)}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = served.post(path, {"model": "any", "query": QUERY, "documents": ids}).json
        scores = {ids[one["index"]]: one["relevance_score"] for one in answer["results"]}
        assert scores == pytest.approx(expected, abs=1e-5)
        assert answer["model"] == "shapes" and answer["id"]
    found = served.post("/rerank", {"query": QUERY, "texts": ids}).json
    assert {ids[one["index"]]: one["score"] for one in found} == pytest.approx(expected, abs=1e-5)


def test_an_id_is_known_in_either_form_of_unicode(served: Served) -> None:
    name = next(one for one in ODD if one.startswith("é"))
    both = [name, unicodedata.normalize("NFD", name)]
    assert both[0] != both[1]
    answer = served.post("/v1/rerank", {"query": QUERY, "documents": both}).json
    scores = [one["relevance_score"] for one in answer["results"]]
    assert len(scores) == 2 and scores[0] == scores[1]


def test_only_the_best_and_their_documents_come_where_that_is_asked(
    served: Served, index: ImageIndex
) -> None:
    ids = index.ids()
    given = {"query": QUERY, "documents": ids, "top_n": 2, "return_documents": True}
    results = served.post("/v2/rerank", given).json["results"]
    best = [hit.id for hit in index.rerank(QUERY, ids)][:2]
    assert [one["document"] for one in results] == [{"text": name} for name in best]
    found = served.post("/rerank", {"query": QUERY, "texts": ids, "return_text": True}).json
    assert [one["text"] for one in found][:2] == best and len(found) == len(ids)
    given = {"query": QUERY, "texts": ids, "return_text": None, "raw_scores": None}
    assert served.post("/rerank", given).json == [
        {name: value for name, value in one.items() if name != "text"} for one in found
    ]


def test_a_picture_that_is_sent_scores_as_the_same_one_stored(
    served: Served, gallery: Path
) -> None:
    name = ODD[0]
    sent = base64_of(gallery / name)
    documents = [
        "holiday.jpg",
        {"image": sent},
        name,
        f"data:image/jpeg;base64,{sent}",
        f"DATA:image/JPEG;Base64,{sent}",
        {"id": name},
        {"text": name},
        {"text": f"data:image/jpeg;base64,{sent}"},
        {"text": f"DATA:image/JPEG;Base64,{sent}"},
    ]
    given = {"query": QUERY, "documents": documents, "raw_scores": True}
    results = served.post("/v1/rerank", given).json["results"]
    scores = {one["index"]: one["relevance_score"] for one in results}
    assert set(scores) == set(range(9))
    assert [scores[at] for at in (1, *range(3, 9))] == pytest.approx([scores[2]] * 7, abs=1e-4)
    assert abs(scores[0] - scores[2]) > 1e-3


def test_an_id_that_comes_twice_is_scored_twice(served: Served) -> None:
    given = {"query": QUERY, "texts": ["holiday.jpg", "memory", "holiday.jpg"]}
    found = {one["index"]: one["score"] for one in served.post("/rerank", given).json}
    assert set(found) == {0, 1, 2} and found[0] == found[2]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_an_unknown_id_is_named(served: Served, path: str) -> None:
    reply = served.post(path, {"query": QUERY, "documents": ["holiday.jpg", "it isn't there"]})
    assert reply.status == 422 and '"it isn\'t there"' in reply.message


def test_documents_that_are_gone_are_left_out_where_that_is_asked(
    served: Served, gallery: Path
) -> None:
    there = ["holiday.jpg", "memory", {"image": base64_of(gallery / ODD[0])}, "holiday.jpg"]
    for documents in (there[:2], there, there[2:3]):
        given = {"query": QUERY, "documents": documents, "raw_scores": True}
        expected = served.post("/v1/rerank", given).json["results"]
        given |= {"documents": ["gone", *documents, "lost", "gone"], "skip_missing": True}
        found = served.post("/v1/rerank", given).json["results"]
        assert [(one["index"] - 1, one["relevance_score"]) for one in found] == [
            (one["index"], pytest.approx(one["relevance_score"], abs=1e-5)) for one in expected
        ]
    given = {"query": QUERY, "texts": ["gone", "memory"], "skip_missing": True}
    assert [one["index"] for one in served.post("/rerank", given).json] == [1]
    given["texts"] = ["gone", "lost"]
    assert served.post("/rerank", given).json == []
    given = {"query": QUERY, "documents": ["gone"], "skip_missing": True, "top_n": 1}
    for path in ("/v1/rerank", "/v2/rerank"):
        assert served.post(path, given).json["results"] == []
    given["skip_missing"] = False
    assert served.post("/v2/rerank", given).status == 422


def huge(side: int = 9000) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"image": "http://127.0.0.1/a.png"}, "addresses are not fetched"),
        ({"image": "file:///etc/passwd"}, "addresses are not fetched"),
        ({"image": "data:image/png,plain"}, "base64"),
        ({"image": "not base64!"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "can't be read as a picture"),
        ({"image": base64.b64encode(huge()).decode()}, "81,000,000 pixels"),
        ({"image": base64.b64encode(b"x" * (10 << 20 | 1)).decode()}, "10 MiB"),
        ({}, "expected one of"),
        ({"id": "holiday.jpg", "image": "aaaa"}, "expected one of"),
        ({"text": "data:image/png;base64,aaaa", "image": "aaaa"}, "expected one of"),
        ({"text": "data:image/png;base64,aaaa"}, "can't be read as a picture"),
        ("", "no picture ''"),
        ("a\0b", "can't be the id"),
        ("x" * 5000, "can't be the id"),
        ({"text": 3}, "documents.1"),
        (3, "documents.1"),
        (None, "documents.1"),
    ],
)
def test_a_document_that_is_none_gets_one_clear_line(
    served: Served, document: object, says: str
) -> None:
    given = {"query": QUERY, "documents": ["holiday.jpg", document]}
    reply = served.post("/v1/rerank", given)
    assert reply.status == 422 and says in reply.message


def test_the_pictures_of_a_request_have_a_limit_together(served: Served) -> None:
    picture = {"image": base64.b64encode(huge(7000)).decode()}
    reply = served.post("/v1/rerank", {"query": QUERY, "documents": [picture] * 3})
    assert reply.status == 422
    assert reply.message.startswith("document 2: ") and "147,000,000 pixels" in reply.message


def test_a_picture_cut_short_spoils_nobody_elses_answer(served: Served, gallery: Path) -> None:
    half = (gallery / "holiday.jpg").read_bytes()[:600]
    given = {"query": QUERY, "documents": [{"image": base64.b64encode(half).decode()}]}
    reply = served.post("/v1/rerank", given)
    assert reply.status == 422 and "can't be read" in reply.message
    assert served.post("/rerank", {"query": QUERY, "texts": ["holiday.jpg"]}).status == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_json_sent_as_something_else_says_what_to_send(
    served: Served, path: str, kind: str
) -> None:
    body = b'{"query": "a", "documents": ["holiday.jpg"]}'
    reply = served.post(path, body, {"Content-Type": kind})
    assert reply.status == 415 and "Content-Type: application/json" in reply.message


# Python 3.14 reads what former ones refuse to nest so deep.
NESTED = 422 if sys.version_info >= (3, 14) else 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"query": "a", "documents": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", NESTED),
        (b'{"query": "\\ud800", "documents": ["holiday.jpg"]}', 422),
        (b'{"query": "a", "documents": ["\\ud800"]}', 422),
        (b'{"query": "a\\u0000", "documents": ["holiday.jpg"]}', 422),
        (b'{"query": "a", "documents": []}', 422),
        (b'{"query": "a", "documents": ["holiday.jpg"], "top_n": 0}', 422),
        (b'{"query": "a", "documents": ["holiday.jpg"], "top_n": 1e400}', 422),
        (b'{"query": "' + b"a" * (1 << 20) + b'", "documents": ["holiday.jpg"]}', 422),
        (b'{"query": "a", "documents": [' + b'"b",' * 1000 + b'"c"]}', 422),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_a_body_that_is_no_request_gets_one_clear_line(
    served: Served, path: str, body: bytes, status: int
) -> None:
    reply = served.post(path, body)
    assert reply.status == status and reply.message


@pytest.mark.parametrize(
    ("name", "shown"),
    [("somebody/model@refs/pr/3", "model"), ("/runs/a", "a"), ("shapes", "shapes"), ("", "edje")],
)
def test_answers_name_the_reranker_without_its_revision(
    index: ImageIndex, shapes: Reranker, monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    monkeypatch.setattr(shapes, "name", name)
    assert WebApp(Searcher(ImageIndex.open(index.folder, shapes))).name == shown

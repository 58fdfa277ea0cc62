"""Claims about GET /v1/search and what a page needs beside it."""

from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from edje import ImageIndex, Reranker
from edje.index.hits import Hit
from edje.inference.encoded_images import EncodedImages
from edje.records import RetrievalSplit
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp, matches_well
from tests.serving.served import ODD, Served, serving

QUERY = "a red circle above a blue square"


def asked(served: Served, **values: object) -> dict:
    reply = served.get(f"/v1/search?{urlencode(values)}")
    assert reply.status == 200, reply.body
    return reply.json


def test_an_index_at_a_url_is_served_as_in_its_folder(
    served: Served, index: ImageIndex, shapes: Reranker
) -> None:
    searcher = Searcher(ImageIndex.open(Path(index.folder).as_uri(), shapes))
    searcher.warm()
    with serving(WebApp(searcher)) as there:
        found, expected = (asked(each, q=QUERY, k=8, top=5) for each in (there, served))
        assert found["reranked"] == expected["reranked"]
        image = found["reranked"][0]["image"]
        assert there.get(image).body == served.get(image).body != b""


def test_the_answer_is_that_of_the_index(served: Served, index: ImageIndex) -> None:
    found = asked(served, q=QUERY, k=8, top=5)
    hits = index.search(QUERY, k=8, top=5)
    assert [one["id"] for one in found["reranked"]] == [hit.id for hit in hits]
    assert [one["score"] for one in found["reranked"]] == pytest.approx(
        [hit.score for hit in hits], abs=1e-4
    )
    assert [one["probability"] for one in found["reranked"]] == pytest.approx(
        [hit.probability for hit in hits], abs=1e-4
    )
    assert [one["first_stage_rank"] for one in found["reranked"]] == [hit.rank for hit in hits]
    assert [one["rank"] for one in found["reranked"]] == [1, 2, 3, 4, 5]
    assert [(one["width"], one["height"]) for one in found["reranked"]] == [
        (hit.width, hit.height) for hit in hits
    ]
    first = sorted(index.search(QUERY, k=8, top=8), key=lambda hit: hit.rank)[:5]
    assert [one["id"] for one in found["first_stage"]] == [hit.id for hit in first]
    assert [one["first_stage_score"] for one in found["first_stage"]] == pytest.approx(
        [hit.first_stage for hit in first], abs=1e-4
    )
    assert found["index"] == {"images": len(index)} and found["tokens"] == 8
    assert (found["query"], found["k"], found["top"]) == (QUERY, 8, 5)


def test_near_duplicates_are_folded_where_it_is_asked(served: Served, index: ImageIndex) -> None:
    found = asked(served, q=QUERY, k=17, top=20, group_duplicates="true")
    hits = index.search(QUERY, k=17, top=20, group_duplicates=True)
    assert [one["id"] for one in found["reranked"]] == [hit.id for hit in hits]
    assert [one["duplicates"] for one in found["reranked"]] == [list(h.duplicates) for h in hits]
    assert any(hit.duplicates for hit in hits)


def test_a_hit_knows_its_place_in_the_whole_list_of_the_first_stage(served: Served) -> None:
    for fold in ("true", "false"):
        values = {"q": QUERY, "k": 17, "group_duplicates": fold}
        few, whole = (asked(served, **values, top=top) for top in (3, 20))
        places = {
            one: hit["rank"]
            for hit in whole["first_stage"]
            for one in (hit["id"], *hit["duplicates"])
        }
        assert len(places) == 17
        for found in (few, whole):
            for hit in found["first_stage"] + found["reranked"]:
                assert hit["first_stage_place"] == places[hit["id"]]
        later = [hit for hit in few["reranked"] if hit["first_stage_place"] > 3]
        folded = [hit["first_stage_place"] < hit["first_stage_rank"] for hit in later]
        assert later and any(folded) == (fold == "true")


def test_it_says_whether_anything_matches_well(served: Served, scenes: RetrievalSplit) -> None:
    good = [asked(served, q=one.text)["matches_well"] for one in scenes.captions[::5]]
    assert good.count(True) >= 10 and asked(served, q=QUERY)["calibrated"] is True
    assert asked(served, q="an annual report about taxes")["matches_well"] is False


@pytest.mark.parametrize(
    ("probabilities", "well"),
    [([0.6, 0.0], True), ([0.2, 0.2, 0.15], True), ([0.3, 0.1, 0.05], False), ([], False)],
)
def test_several_pictures_that_may_each_be_right_are_together_a_match(
    probabilities: list[float], well: bool
) -> None:
    hits = [Hit("id", None, 0.0, one, 0.0, rank) for rank, one in enumerate(probabilities, 1)]
    assert matches_well(hits) == well


def test_each_stage_has_a_time_within_the_whole(served: Served) -> None:
    times = asked(served, q=QUERY)["times_ms"]
    assert set(times) == {"text", "first_stage", "reading", "scoring", "total"}
    assert all(value >= 0 for value in times.values())
    assert times["scoring"] > 0 and sum(times.values()) - times["total"] <= times["total"]


def test_what_may_be_asked_is_told(served: Served, index: ImageIndex) -> None:
    info = served.get("/v1/info").json
    assert (info["name"], info["images"], info["calibrated"]) == ("shapes", len(index), True)
    assert (info["token_budgets"], info["default_tokens"], info["needs_token"]) == ([8], 8, False)
    k, top = info["max_k"], info["max_top"]
    assert served.get(f"/v1/search?q=a&k={k}&top={top}").status == 200
    assert "k" in served.get(f"/v1/search?q=a&k={k + 1}").message
    assert "top" in served.get(f"/v1/search?q=a&top={top + 1}").message


def test_a_picture_is_found_by_the_address_in_its_hit(served: Served, index: ImageIndex) -> None:
    found = asked(served, q=QUERY, k=100, top=100)["reranked"]
    assert {one["id"] for one in found} == set(index.ids()) and set(ODD) <= set(index.ids())
    for one in found:
        assert one["image"] == f"/images/{quote(one['id'], safe='')}"
        reply = served.get(one["image"])
        if one["id"] == "memory":
            assert reply.status == 404 and "no file" in reply.message
        else:
            assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "q"),
        ("q=", "q"),
        ("q=%20%09", "empty"),
        ("q=%3F%21", "no words"),
        ("q=a%00b", "NUL"),
        ("q=a&k=0", "k"),
        ("q=a&k=many", "k"),
        ("q=a&top=-1", "top"),
        ("q=a&tokens=3", "expected one of 8"),
        ("q=a&group_duplicates=perhaps", "group_duplicates"),
        (f"q={'a' * 1001}", "1000"),
    ],
)
def test_a_question_that_is_none_gets_one_clear_line(served: Served, query: str, says: str) -> None:
    reply = served.get(f"/v1/search?{query}")
    assert reply.status == 422 and says in reply.message


def test_figures_know_the_index_before_the_first_answer(
    index: ImageIndex, shapes: Reranker
) -> None:
    web = WebApp(Searcher(ImageIndex.open(index.folder, shapes)))
    assert f"edje_index_images {len(index):.1f}" in web.metrics.text().decode()
    assert web.close(10)


def test_health_and_figures_are_told(served: Served) -> None:
    asked(served, q=QUERY)
    assert served.get("/healthz").json == {"status": "ok"}
    reply = served.get("/metrics")
    lines = dict(
        line.rsplit(" ", 1) for line in reply.body.decode().splitlines() if not line.startswith("#")
    )
    assert float(lines['edje_requests_total{route="/v1/search",status="200"}']) >= 1
    assert float(lines['edje_stage_seconds_total{stage="scoring"}']) > 0
    assert float(lines["edje_batch_jobs_count"]) >= 1
    assert float(lines["edje_index_images"]) == served.get("/v1/info").json["images"]


def test_fewer_of_nested_tokens_are_read_where_that_is_asked(index: ImageIndex) -> None:
    nested = Reranker.from_pretrained("shapes", device="cpu", precision="fp32")
    nested.checkpoint.model.adapter.budgets = (4, 8)  # as if it had been trained so
    ids = index.ids()
    images = index.encoded(ids)
    few = EncodedImages(images.embeddings, images.tokens[:, :4])
    ranked = nested.with_first_tokens(4).rank(QUERY, few)
    with serving(WebApp(Searcher(ImageIndex.open(index.folder, nested)))) as served:
        assert served.get("/v1/info").json["token_budgets"] == [4, 8]
        found = asked(served, q=QUERY, k=len(ids), top=100, tokens=4)
        assert found["tokens"] == 4 and asked(served, q=QUERY, tokens=8)["tokens"] == 8
    scores = {one["id"]: one["score"] for one in found["reranked"]}
    expected = {ids[row["corpus_id"]]: row["score"] for row in ranked}
    assert scores == pytest.approx(expected, abs=1e-4)
    assert found["calibrated"] is False and found["matches_well"] is None  # none for so many
    full = {hit.id: hit.score for hit in index.search(QUERY, k=100, top=100)}
    assert scores != pytest.approx(full, abs=1e-2)

import pytest
import torch

from edje.errors import EdjeError
from edje.retrieval import candidates
from edje.retrieval.candidates import candidate_lists, first_stage_candidates
from edje.retrieval.exact import exact_products, similarities

IMAGES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
# Captions 0 and 1 belong to image 0, caption 2 to image 1, caption 3 to image 2.
CAPTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.6, 0.8]])
IMAGE_OF_CAPTION = torch.tensor([0, 0, 1, 2])


def test_text_to_image_lists_are_best_first_with_their_relevance():
    lists = candidate_lists(IMAGES, CAPTIONS, IMAGE_OF_CAPTION, "t2i", 2)
    assert lists.direction == "t2i"
    assert lists.candidates.tolist() == [[0, 2], [1, 2], [1, 2], [2, 1]]
    torch.testing.assert_close(
        lists.scores, torch.tensor([[1.0, 0.6], [1.0, 0.8], [1.0, 0.8], [1.0, 0.8]])
    )
    # Caption 1's own image was not retrieved, and nothing puts it there.
    assert lists.relevant.tolist() == [[True, False], [False, False], [True, False], [True, False]]
    assert lists.num_relevant.tolist() == [1, 1, 1, 1]


def test_image_to_text_marks_all_captions_of_the_image():
    lists = candidate_lists(IMAGES, CAPTIONS, IMAGE_OF_CAPTION, "i2t", 3)
    assert lists.num_relevant.tolist() == [2, 1, 1]
    assert lists.candidates[0].tolist() == [0, 3, 2]  # caption 1 ties with 2 and loses
    assert lists.relevant[0].tolist() == [True, False, False]


def test_a_pool_wider_than_the_gallery_is_the_gallery():
    assert candidate_lists(IMAGES, CAPTIONS, IMAGE_OF_CAPTION, "t2i", 50).scores.shape == (4, 3)


def test_the_relevant_item_loses_ties_wherever_it_stands():
    gallery = torch.ones(5, 2)
    for mine in range(5):
        lists = first_stage_candidates(
            torch.ones(1, 2), gallery, torch.tensor([mine]), torch.arange(5), "t2i", 4
        )
        assert not lists.relevant.any()
        full = first_stage_candidates(
            torch.ones(1, 2), gallery, torch.tensor([mine]), torch.arange(5), "t2i", 5
        )
        assert full.candidates[0, -1] == mine


def test_a_tie_never_costs_more_than_the_tied():
    """The relevant item stays ahead of the next lower score, however close that is."""
    lower = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    gallery = torch.tensor([[lower], [1.0], [1.0]])
    lists = first_stage_candidates(
        torch.ones(1, 1), gallery, torch.tensor([1]), torch.arange(3), "t2i", 3
    )
    assert lists.candidates.tolist() == [[2, 1, 0]]


def test_no_queries_have_no_lists_however_many_blocks_the_gallery_has():
    few = torch.empty(0, dtype=torch.long)
    for block in (100, 7):
        images, owners = torch.randn(100, 8), torch.arange(100)
        found = candidate_lists(images, images, owners, "t2i", 2, queries=few, block=block)
        assert found.candidates.shape == found.relevant.shape == (0, 2)


def test_chunks_change_nothing():
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(n, 4, generator=generator) for n in (7, 21))
    image_of_caption = torch.arange(21) % 7
    for direction in ("t2i", "i2t"):
        whole = candidate_lists(images, captions, image_of_caption, direction, 4)
        parts = candidate_lists(images, captions, image_of_caption, direction, 4, chunk=2)
        assert torch.equal(whole.candidates, parts.candidates)
        assert torch.equal(whole.relevant, parts.relevant)
        torch.testing.assert_close(whole.scores, parts.scores)


def test_half_precision_embeddings_are_compared_in_float32():
    lists = candidate_lists(IMAGES.half(), CAPTIONS.half(), IMAGE_OF_CAPTION, "t2i", 2)
    assert lists.scores.dtype == torch.float32


def test_similarities_that_are_not_finite_are_refused():
    broken = IMAGES.clone()
    broken[1] = torch.nan
    with pytest.raises(EdjeError, match="not finite for 4 of 4"):
        candidate_lists(broken, CAPTIONS, IMAGE_OF_CAPTION, "t2i", 2)


def test_an_empty_pool_is_refused():
    with pytest.raises(EdjeError, match="k=0"):
        candidate_lists(IMAGES, CAPTIONS, IMAGE_OF_CAPTION, "t2i", 0)


def best_of_the_whole_matrix(images, captions, owner, direction, k):
    """The plain way, query by query: by score, irrelevant before relevant, then by row."""
    queries, gallery = (captions, images) if direction == "t2i" else (images, captions)
    of_query, of_candidate = torch.arange(len(images)), owner
    if direction == "t2i":
        of_query, of_candidate = owner, torch.arange(len(images))
    scores = (queries @ gallery.T).tolist()
    listed = []
    for row, image in zip(scores, of_query.tolist(), strict=True):
        relevant = (of_candidate == image).tolist()
        order = sorted(range(len(row)), key=lambda c: (-row[c], relevant[c], c))[:k]
        listed.append(([row[c] for c in order], [relevant[c] for c in order], order))
    return listed


@pytest.mark.parametrize("seed", range(8))
def test_lists_from_blocks_of_the_gallery_are_those_of_the_whole_matrix_ties_included(seed):
    draws = torch.Generator().manual_seed(seed)
    # Few different numbers, negative ones and both zeros among them: most similarities tie.
    images, captions = (torch.randint(-1, 2, (n, 2), generator=draws).float() for n in (13, 40))
    images[0] = -0.0
    owner = torch.randint(13, (40,), generator=draws)
    for direction in ("t2i", "i2t"):
        for k in (1, 4, 13, 50):
            expected = best_of_the_whole_matrix(images, captions, owner, direction, k)
            for block in (1, 3, 7, 1000):
                lists = candidate_lists(images, captions, owner, direction, k, chunk=6, block=block)
                found = zip(
                    lists.scores.tolist(),
                    lists.relevant.tolist(),
                    lists.candidates.tolist(),
                    strict=True,
                )
                assert list(found) == expected


def test_scores_are_the_similarities_to_the_last_bit():
    draws = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(n, 8, generator=draws) for n in (9, 30))
    lists = candidate_lists(images, captions, torch.arange(30) % 9, "i2t", 30)
    assert torch.equal(lists.scores, (images @ captions.T).gather(1, lists.candidates))


def test_a_similarity_that_is_not_finite_is_found_in_whichever_block_it_is():
    broken = CAPTIONS.clone()
    broken[3] = torch.inf
    with pytest.raises(EdjeError, match=r"i2t.* not finite for 3 of 3"):
        candidate_lists(IMAGES, broken, IMAGE_OF_CAPTION, "i2t", 1, block=1)


def test_memory_does_not_grow_with_the_gallery(monkeypatch):
    widths = []

    def watched(queries, gallery):
        widths.append(len(queries) * len(gallery) * 4)
        return queries @ gallery.T

    assert candidates.SIMILARITY_BYTES == 64 << 20
    monkeypatch.setattr(candidates, "SIMILARITY_BYTES", 2 << 20)
    monkeypatch.setattr(candidates, "similarities", watched)
    owner = torch.arange(1200)
    candidate_lists(torch.ones(1200, 1), torch.ones(1100, 1), owner[:1100], "t2i", 2)
    assert max(widths) == 2 << 20 and len(widths) == 2 * 4  # small ones first


def test_similarities_are_in_full_float32_whatever_a_run_allows():
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for allowed in ("tf32", "ieee"):
            for backend in backends:
                backend.fp32_precision = allowed
            with exact_products():
                assert [backend.fp32_precision for backend in backends] == ["ieee"] * 2
            assert [backend.fp32_precision for backend in backends] == [allowed] * 2
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
    with torch.autocast("cpu", torch.bfloat16):
        assert similarities(IMAGES.half(), CAPTIONS.half()).dtype == torch.float32

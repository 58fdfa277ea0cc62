"""A server's access to its index: batches of searches and rerankings, on the index's thread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edje.errors import EdjeError
from edje.index.answers import Answer, Missing, Question, UnknownPicture
from edje.index.image_index import ImageIndex
from edje.inference.encoded_images import EncodedImages
from edje.serving.documents import BadDocument, Documents, shown

REFRESH_SECONDS = 5.0  # interval of looking for what other processes have written
LOOK = "a picture"  # a query that reads the index


@dataclass(frozen=True)
class Reranking:
    """A text and the documents to be put in order; `pixels` are the uploaded pictures, prepared."""

    query: str
    documents: Documents
    pixels: Sequence[Tensor] = ()
    missing: Missing = "error"


@dataclass(frozen=True)
class Scored:
    """Score and probability of each document that is there, by its number in the request."""

    scores: dict[int, float]
    probabilities: dict[int, float]


@dataclass(frozen=True)
class IndexFacts:
    """The index's figures in an answer."""

    images: int
    is_calibrated: bool


Job = Question | Reranking
Result = tuple[Answer | Scored, IndexFacts]


class Searcher:
    """Runs batches of jobs on an index, on the one thread that owns it."""

    def __init__(self, index: ImageIndex):
        self.index = index
        self.facts = self._facts()
        self._due = time.monotonic()  # when to look for what others have written

    def warm(self) -> IndexFacts:
        """Load everything that the first search needs.

        Raises:
            EdjeError: the index has no pictures, or can't be searched.
        """
        if not len(self.index):
            raise EdjeError(
                f"{self.index.folder} has no pictures yet. Add some: edje index <folder> --into "
                f"{self.index.folder}"
            )
        if not self.index.has_given_embeddings:
            self.index.search(LOOK, k=2, top=1)
        else:
            self.index.rerank(LOOK, self.index.ids()[:2])
        self.facts = self._facts()
        return self.facts

    def prepared(self, picture: bytes) -> Tensor:
        """An uploaded picture decoded and shrunk, which takes the longest; for any thread.

        Raises:
            BadDocument: it can't be read.
        """
        try:
            return self.index.reranker.picture_encoder.prepared(picture)
        except EdjeError as error:
            raise BadDocument(f"{error}") from error

    @property
    def look(self) -> Question:
        """A small job that finds out whether the index can be read."""
        return Question(LOOK, k=2, ids=[] if self.index.has_given_embeddings else None)

    @property
    def is_due(self) -> bool:
        """Whether the last successful look at the index is some seconds old; for any thread."""
        return time.monotonic() >= self._due

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """The results of jobs, in their order.

        Raises:
            BadDocument: a document is not a picture of the index, or can't be read.
            EdjeError: the index can't be read.
        """
        now = time.monotonic()
        due, self._due = self._due, now  # after an error the next call looks at once
        if now >= due:
            self.index.refresh()
            self.facts = self._facts()
            due = now + REFRESH_SECONDS
        results = self._results(jobs)
        self._due = due
        return results

    def _results(self, jobs: Sequence[Job]) -> list[Result]:
        """One call for all jobs without uploaded pictures, and one each for the others."""
        questions = {at: _question(job) for at, job in enumerate(jobs) if not _has_pictures(job)}
        try:
            answers = self.index.answers(list(questions.values()))
        except UnknownPicture as error:
            raise _unknown(error) from error
        facts = self.facts
        found = dict(zip(questions, answers, strict=True))
        results: list[Result] = []
        for at, job in enumerate(jobs):
            if isinstance(job, Question):
                results.append((found[at], facts))
            elif at in found:
                results.append((_in_order(job.documents, found[at]), facts))
            else:
                results.append((self._with_pictures(job, facts.images), facts))
        return results

    def _with_pictures(self, job: Reranking, images: int) -> Scored:
        """Scores of stored and uploaded pictures in one list."""
        reranker, ids = self.index.reranker, job.documents.ids
        encoded = reranker.picture_encoder.images(job.pixels, len(job.pixels), False)
        if ids:
            try:
                stored = self.index.encoded(ids)
            except UnknownPicture as error:
                if job.missing == "error":
                    raise _unknown(error) from error
                ids = [one for one in ids if one not in error.ids]
                stored = self.index.encoded(ids)
            encoded = EncodedImages(
                torch.cat([stored.embeddings, encoded.embeddings]),
                torch.cat([stored.tokens, encoded.tokens]),
            )
        scores = reranker.score_images(job.query, encoded)
        searched = max(images, len(encoded))
        return _scored(job.documents, ids, scores.double(), reranker.probability(scores, searched))

    def _facts(self) -> IndexFacts:
        probability = self.index.reranker.probability(torch.zeros(2), 2)
        return IndexFacts(len(self.index), probability is not None)


def _has_pictures(job: Job) -> bool:
    return isinstance(job, Reranking) and bool(job.pixels)


def _question(job: Job) -> Question:
    if isinstance(job, Question):
        return job
    return Question(job.query, ids=job.documents.ids, missing=job.missing)


def _in_order(documents: Documents, answer: Answer) -> Scored:
    """An answer's scores by document; the first stage's rank of a hit is its place in the ids."""
    hits = sorted(answer.hits, key=lambda hit: hit.rank)
    scores = torch.tensor([hit.score for hit in hits], dtype=torch.float64)
    known = [hit.probability for hit in hits if hit.probability is not None]
    probability = torch.tensor(known, dtype=torch.float64) if len(known) == len(hits) else None
    return _scored(documents, [hit.id for hit in hits], scores, probability)


def _scored(
    documents: Documents, there: Sequence[str], scores: Tensor, probability: Tensor | None
) -> Scored:
    """Scores by document, from those of the ids that are there and then of the pictures.

    Without a calibration, probabilities are the logistic function of the score.
    """
    sure = scores.sigmoid() if probability is None else probability
    pictures = range(len(documents.pictures))
    every: list[str | int] = [*documents.ids, *pictures]
    rows = {one: row for row, one in enumerate([*there, *pictures])}
    of_documents = {at: rows.get(every[place]) for at, place in enumerate(documents.places)}
    found = {at: row for at, row in of_documents.items() if row is not None}
    return Scored(
        {at: scores[row].item() for at, row in found.items()},
        {at: sure[row].item() for at, row in found.items()},
    )


def _unknown(error: UnknownPicture) -> BadDocument:
    more = f" (and {len(error.ids) - 1} more)" if len(error.ids) > 1 else ""
    return BadDocument(f"the index has no picture {shown(error.ids[0])}{more}.")

"""The form of requests and answers, checked by pydantic and described by OpenAPI."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from edje.captions import clean_caption
from edje.images.pictures import is_unicode

LONGEST_QUERY = 1000  # characters
LONGEST_ID = 4096
MOST_DOCUMENTS = 1000  # of one request
MOST_K, MOST_TOP = 1000, 100
DATA = "data:image/"  # how a picture sent as text begins


def _is_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("it has a NUL character")
    if not is_unicode(value):
        raise ValueError("it has half of a surrogate pair")
    if not value.strip():
        raise ValueError("it is empty")
    if not clean_caption(value):
        raise ValueError("it has no words")
    return value


Query = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_QUERY), AfterValidator(_is_text)
]
SkipMissing = Annotated[
    bool | None, Field(description="leave out documents whose ids are not in the index")
]
TopN = Annotated[int, Field(ge=1, le=MOST_DOCUMENTS)]


class DocumentObject(BaseModel):
    """A document as an object: the id of a stored picture, or a picture in base64."""

    text: str | None = Field(
        None, description="the id of a stored picture, or a picture as a data: address"
    )
    id: str | None = Field(None, description="the id of a stored picture")
    image: str | None = Field(None, description="a picture file in base64, or its data: address")


Document = str | DocumentObject


class DocumentsRequest(BaseModel):
    """Reranking requests in the form of Cohere, Jina and vLLM; their other fields are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "two dogs", "documents": ["a.jpg", "b.jpg"]}}
    )
    query: Query
    documents: Annotated[list[Document], Field(min_length=1, max_length=MOST_DOCUMENTS)]
    model: str | None = Field(None, max_length=LONGEST_ID, description="ignored")
    top_n: TopN | None = None
    return_documents: bool | None = None
    raw_scores: bool | None = Field(None, description="the reranker's scores, not probabilities")
    skip_missing: SkipMissing = None


class TextsRequest(BaseModel):
    """Reranking requests in the form of text-embeddings-inference."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "two dogs", "texts": ["a.jpg", "b.jpg"]}}
    )
    query: Query
    texts: Annotated[list[str], Field(min_length=1, max_length=MOST_DOCUMENTS)]
    raw_scores: bool | None = None
    return_text: bool | None = None
    skip_missing: SkipMissing = None


TextsOrDocuments = Annotated[
    Annotated[TextsRequest, Tag("texts")] | Annotated[DocumentsRequest, Tag("documents")],
    Discriminator(
        lambda given: "texts" if isinstance(given, dict) and "texts" in given else "documents"
    ),
]


class Result(BaseModel):
    """A document's position in the request, and its score: from 0 to 1, unless raw."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    """Documents from best to worst."""

    id: str
    model: str
    results: list[Result]
    meta: dict[str, Any]


class Rank(BaseModel):
    """A text's position in the request, and its score."""

    index: int
    score: float
    text: str | None = None


class HitAnswer(BaseModel):
    """A picture that was found; `rank` is its place in this list, from 1.

    It moved by `first_stage_place - rank` places: near duplicates that are one hit have one place.
    """

    id: str
    rank: int
    first_stage_rank: int = Field(description="its place in the first stage, each picture counted")
    first_stage_place: int = Field(
        description="its place in the first stage's list of hits, before this is cut to `top`"
    )
    first_stage_score: float
    score: float | None
    probability: float | None
    duplicates: list[str]
    image: str = Field(description="the picture's address")
    width: int | None
    height: int | None


class IndexAnswer(BaseModel):
    """The index that was searched."""

    images: int


class Times(BaseModel):
    """Milliseconds: stages for all jobs of the batch together; `total` for this request."""

    text: float
    first_stage: float
    reading: float
    scoring: float
    total: float


class SearchAnswer(BaseModel):
    """Both stages of a search; `matches_well` is whether one of the pictures is probably right.

    For this, the probabilities of all candidates are added: if several pictures fit, each has a
    small one.
    """

    query: str
    index: IndexAnswer
    k: int
    top: int
    tokens: int
    calibrated: bool
    matches_well: bool | None
    times_ms: Times
    first_stage: list[HitAnswer]
    reranked: list[HitAnswer]


class Info(BaseModel):
    """What is served, and the most that a search may ask for."""

    name: str
    images: int
    calibrated: bool
    token_budgets: list[int]
    default_tokens: int
    max_k: int
    max_top: int
    version: str
    needs_token: bool


class Health(BaseModel):
    """The server's state."""

    status: str


class ErrorText(BaseModel):
    """What went wrong."""

    message: str


class ErrorAnswer(BaseModel):
    """One clear line, under both of the names that clients look for."""

    error: ErrorText
    message: str


def uploaded(given: str) -> bytes:
    """A picture file from base64, possibly in a data: address.

    Raises:
        ValueError: it isn't one.
    """
    if given.lower().startswith(("http:", "https:", "file:", "ftp:", "s3:")):
        raise ValueError("addresses are not fetched; send the picture in base64")
    head, comma, rest = given.partition(",")
    if given[:5].lower() == "data:":
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data: address needs ;base64, then the picture")
        given = rest
    try:
        return base64.b64decode("".join(given.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it isn't base64") from error

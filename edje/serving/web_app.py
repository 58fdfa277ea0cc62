"""The web application: its routes, over a searcher on its own thread."""

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.security import HTTPBearer
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from torch import Tensor

import edje
from edje.errors import EdjeError
from edje.index.answers import Answer, Missing, Question
from edje.index.hits import Hit
from edje.inference.location import hub_name
from edje.serving import messages
from edje.serving.batcher import Batcher, Busy
from edje.serving.documents import BadDocument, Documents, documents_of
from edje.serving.gate import Gate, cookie_of, refusal
from edje.serving.messages import (
    DocumentsRequest,
    ErrorAnswer,
    Health,
    HitAnswer,
    IndexAnswer,
    Info,
    Rank,
    RerankAnswer,
    Result,
    SearchAnswer,
    TextsOrDocuments,
    Times,
)
from edje.serving.searcher import Job, Reranking, Scored, Searcher
from edje.serving.server_metrics import ServerMetrics
from edje.serving.web_pictures import Size, WebPictures

log = logging.getLogger(__name__)


class WholeRest(PathConvertor):
    """The rest of an address, also with line breaks."""

    regex = "(?s:.*)"


register_url_convertor("whole", WholeRest())
PAGE = Path(__file__).parent / "page"
MATCHES = 0.5  # expected number of right pictures from which `matches_well` is true
PICTURES_AT_ONCE = 4  # made for browsers at the same time
UPLOADS_AT_ONCE = 2  # decoded at the same time
HEALTH_SECONDS = 0.5  # that /healthz waits for a look at the index
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "not JSON, or a Host that isn't served",
        401: "no token",
        403: "a request from another site",
        408: "the body didn't arrive in time",
        413: "the body is too large",
        415: "the body isn't sent as JSON",
        422: "invalid values; or a picture that doesn't exist",
        429: "too many requests are waiting",
        503: "the index can't be read at present, or the server is stopping",
        504: "the answer took too long",
    }.items()
}
NO_PICTURE: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "no such picture"}
}
UNHEALTHY: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "the index can't be read"}
}
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


BEARER = HTTPBearer(auto_error=False, description="the server's token")  # checked by the gate


@dataclass(frozen=True)
class Limits:
    """How much is accepted at once, and how long a request may take."""

    waiting: int = 64  # requests in the queue
    batch: int = 16  # requests that are scored together …
    pairs: int = 500  # … and their pairs
    seconds: float = 30.0


class WebApp:
    """An index behind HTTP: `app` is the ASGI application, `close` ends its thread."""

    def __init__(
        self,
        searcher: Searcher,
        *,
        token: str | None = None,
        names: Sequence[str] = (),
        limits: Limits | None = None,
    ):
        self.searcher = searcher
        self.token = token
        self.limits = limits or Limits()
        self.ending = asyncio.Event()  # once set, requests stop waiting for their answers
        self.problem: str | None = None  # why the index can't be read
        self._look: asyncio.Future[None] | None = None  # the latest of /healthz
        reranker = searcher.index.reranker
        named = hub_name(reranker.name)
        self.name = Path(named[0] if named else reranker.name).name or "edje"
        self.budgets = reranker.token_budgets
        self.pictures = WebPictures(searcher.index.folder)
        self.metrics = ServerMetrics(lambda: self.batcher.waiting, lambda: searcher.facts.images)
        self.batcher: Batcher[Job, Any] = Batcher(
            searcher.run,
            most_waiting=self.limits.waiting,
            most_jobs=self.limits.batch,
            most_size=self.limits.pairs,
            observe=self.metrics.batch.observe,
        )
        self.api = FastAPI(
            title="edje serve",
            version=edje.__version__,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            description="Image search with reranking. Documents are ids of its pictures.",
        )
        self._add_routes()
        self.app = Gate(self.api, names, token, self.metrics.requested)

    def close(self, seconds: float = 1.0) -> bool:
        """End the thread; returns whether it ended in time."""
        return self.batcher.close(seconds)

    async def answered(self, job: Job, size: int) -> Any:
        """The result of a job, from the index's thread."""
        try:
            future = asyncio.wrap_future(self.batcher.submit(job, size))
        except Busy:
            raise HTTPException(
                429, "too many requests are waiting; try again soon.", {"Retry-After": "1"}
            ) from None
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait(
                (future, ending),
                timeout=self.limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not future.done():
                if self.ending.is_set():
                    raise HTTPException(503, "the server is stopping; try again later.")
                raise self._too_slow
            result, facts = future.result()
        finally:
            future.cancel()
            ending.cancel()
        self.problem = None
        return result, facts

    @property
    def _too_slow(self) -> HTTPException:
        return HTTPException(504, f"no answer within {self.limits.seconds:g} s; request less.")

    def _add_routes(self) -> None:
        api = self.api
        api.exception_handler(RequestValidationError)(_invalid)
        api.exception_handler(HTTPException)(_refused)
        api.exception_handler(EdjeError)(self._mistaken)
        api.exception_handler(Exception)(_failed)
        needs = [] if self.token is None else [Depends(BEARER)]  # said in the schema alone
        add = partial(api.add_api_route, dependencies=needs)
        add("/v1/search", self.search, responses=ERRORS, tags=["search"])
        add("/v1/info", self.info, responses=ERRORS, tags=["search"])
        for path in ("/v1/rerank", "/v2/rerank"):
            add(
                path,
                self.rerank,
                methods=["POST"],
                responses=ERRORS,
                tags=["rerank"],
                operation_id=f"rerank_{path[1:3]}",
                response_model_exclude_none=True,
            )
        add(
            "/rerank",
            self.rerank_texts,
            methods=["POST"],
            responses=ERRORS,
            tags=["rerank"],
            response_model_exclude_none=True,
        )
        add(
            "/images/{image_id:whole}",
            self.image,
            responses={**ERRORS, **NO_PICTURE, **JPEG},
            response_class=Response,
            tags=["search"],
        )
        api.add_api_route("/healthz", self.health, responses=UNHEALTHY, tags=["server"])
        add(
            "/metrics",
            self.figures,
            tags=["server"],
            response_class=Response,
            responses={
                200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
                401: ERRORS[401],
            },
        )
        add("/", self.page, include_in_schema=False)
        add("/static/{name}", self.static, include_in_schema=False)

    async def search(
        self,
        q: Annotated[messages.Query, Query(description="the text")],
        k: Annotated[int, Query(ge=1, le=messages.MOST_K, description="reranked pictures")] = 100,
        top: Annotated[int, Query(ge=1, le=messages.MOST_TOP, description="hits at most")] = 20,
        tokens: Annotated[
            int | None, Query(ge=1, description="visual tokens to read, if they are nested")
        ] = None,
        group_duplicates: Annotated[bool, Query(description="one hit for near duplicates")] = False,
    ) -> SearchAnswer:
        """Both stages of a search, each list with its scores."""
        began = time.perf_counter()
        if tokens is not None and tokens not in self.budgets:
            raise HTTPException(
                422, f"tokens: expected one of {', '.join(map(str, self.budgets))}."
            )
        if self.searcher.index.has_given_embeddings:
            raise HTTPException(
                422, "this index has another model's first stage; use POST /v1/rerank."
            )
        num_tokens = None if tokens == self.budgets[-1] else tokens
        answer, facts = await self.answered(Question(q, k, num_tokens=num_tokens), k)
        self.metrics.searched(answer.seconds)
        first, best, places = await anyio.to_thread.run_sync(_both, answer, top, group_duplicates)
        calibrated = answer.hits[0].probability is not None if answer.hits else facts.is_calibrated
        times = {name: 1000 * value for name, value in vars(answer.seconds).items()}
        return SearchAnswer(
            query=q,
            index=IndexAnswer(images=facts.images),
            k=k,
            top=top,
            tokens=tokens or self.budgets[-1],
            calibrated=calibrated,
            matches_well=matches_well(answer.hits) if calibrated else None,
            times_ms=Times(**times, total=1000 * (time.perf_counter() - began)),
            first_stage=_hits(first, places),
            reranked=_hits(best, places),
        )

    async def info(self) -> Info:
        """What is served, and the most that a search may ask for."""
        facts = self.searcher.facts
        return Info(
            name=self.name,
            images=facts.images,
            calibrated=facts.is_calibrated,
            token_budgets=self.budgets,
            default_tokens=self.budgets[-1],
            max_k=messages.MOST_K,
            max_top=messages.MOST_TOP,
            version=edje.__version__,
            needs_token=self.token is not None,
        )

    async def rerank(self, request: DocumentsRequest, http: Request) -> RerankAnswer:
        """Documents from best to worst, in the form of Cohere, Jina and vLLM.

        A document is the id of a stored picture or a picture in base64; addresses aren't fetched.
        """
        scored = await self._scored(http, request, request.documents)
        scores = scored.scores if request.raw_scores else scored.probabilities
        return RerankAnswer(
            id=uuid.uuid4().hex,
            model=self.name,
            results=[
                Result(
                    index=at,
                    relevance_score=scores[at],
                    document=_given(request.documents[at]) if request.return_documents else None,
                )
                for at in _order(scored)[: request.top_n]
            ],
            meta={"api_version": {"version": "2"}},
        )

    async def rerank_texts(
        self, request: TextsOrDocuments, http: Request
    ) -> list[Rank] | RerankAnswer:
        """With `texts`, as text-embeddings-inference; with `documents`, as /v1/rerank."""
        if isinstance(request, DocumentsRequest):
            return await self.rerank(request, http)
        scored = await self._scored(http, request, request.texts)
        scores = scored.scores if request.raw_scores else scored.probabilities
        return [
            Rank(
                index=at, score=scores[at], text=request.texts[at] if request.return_text else None
            )
            for at in _order(scored)
        ]

    async def _scored(
        self,
        http: Request,
        request: DocumentsRequest | messages.TextsRequest,
        given: Sequence[messages.Document],
    ) -> Scored:
        documents: Documents = await anyio.to_thread.run_sync(documents_of, given)
        try:
            async with asyncio.timeout(self.limits.seconds):
                pixels = [await self._prepared(http, one) for one in documents.pictures]
        except TimeoutError:
            raise self._too_slow from None
        missing: Missing = "skip" if request.skip_missing else "error"
        job = Reranking(request.query, documents, pixels, missing)
        scored, _ = await self.answered(job, len(documents.places))
        return scored

    async def _prepared(self, http: Request, picture: bytes) -> Tensor:
        """An uploaded picture for the index's thread; none after the client is gone."""
        if await http.is_disconnected():
            raise HTTPException(499, "the client is gone.")
        return await anyio.to_thread.run_sync(
            self.searcher.prepared, picture, limiter=self._reading, abandon_on_cancel=True
        )

    @cached_property
    def _reading(self) -> CapacityLimiter:
        return CapacityLimiter(UPLOADS_AT_ONCE)

    async def image(
        self, image_id: str, size: Annotated[Size, Query(description="how large")] = "thumb"
    ) -> Response:
        """A picture as a JPEG without metadata; 404 if it has no readable file."""
        made = await anyio.to_thread.run_sync(
            self.pictures.jpeg, image_id, size, limiter=self._making
        )
        if made is None:
            raise HTTPException(404, "there is no such picture, or it has no file.")
        return Response(
            made, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"}
        )

    @cached_property
    def _making(self) -> CapacityLimiter:
        return CapacityLimiter(PICTURES_AT_ONCE)

    async def health(self, response: Response) -> Health:
        """Whether the server is up, and whether its index could be read when it last looked.

        It looks again after some seconds or an error, but doesn't wait long for a busy server.
        """
        if self.problem is not None or self.searcher.is_due:
            if self._look is None or self._look.done():
                self._look = asyncio.ensure_future(self._looked())
            done, _ = await asyncio.wait((self._look,), timeout=HEALTH_SECONDS)
            for look in done:
                look.result()
        if self.problem is not None:
            response.status_code = 503
            return Health(status="the index can't be read")
        return Health(status="ok")

    async def _looked(self) -> None:
        """Find out whether the index can be read; being busy or stopping says nothing of it."""
        with suppress(HTTPException):
            try:
                await self.answered(self.searcher.look, 2)
            except EdjeError as error:
                self._unreadable(error)

    def _unreadable(self, error: EdjeError) -> None:
        if str(error) != self.problem:
            log.error("%s", error)  # with paths, which must not reach clients
        self.problem = str(error)

    async def _mistaken(self, _: Request, error: EdjeError) -> Response:
        if isinstance(error, BadDocument):
            return refusal(422, str(error))
        self._unreadable(error)
        return refusal(503, "the index can't be read at present; the server's log says why.")

    async def figures(self) -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self, request: Request, token: str | None = None) -> Response:
        """The page; with ?token=…, the token is moved from the address into a cookie."""
        if token is None or self.token is None:
            return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
        rest = [(key, value) for key, value in request.query_params.multi_items() if key != "token"]
        response = RedirectResponse(f"./?{urlencode(rest)}" if rest else "./", 303)
        if hmac.compare_digest(token.encode(), self.token.encode()):
            name, value = cookie_of(token)
            response.set_cookie(name, value, httponly=True, samesite="strict", path="/")
        return response

    async def static(self, name: str) -> Response:
        """A file of the page."""
        if name not in {path.name for path in PAGE.iterdir()}:
            raise HTTPException(404, "there is no such file.")
        return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})


def matches_well(hits: Sequence[Hit]) -> bool:
    """Whether one of the hits is probably right, by the sum of their probabilities.

    If several pictures fit a text, each alone may be unlikely.
    """
    return sum(hit.probability or 0.0 for hit in hits) >= MATCHES


def _both(answer: Answer, top: int, group: bool) -> tuple[list[Hit], list[Hit], dict[str, int]]:
    """The hits of both stages, and the place of every picture in the first stage's whole list."""
    first = answer.first_stage(group_duplicates=group)
    places = {
        one: place for place, hit in enumerate(first, start=1) for one in (hit.id, *hit.duplicates)
    }
    return first[:top], answer.best(top, group), places


def _hits(hits: Sequence[Hit], places: Mapping[str, int]) -> list[HitAnswer]:
    return [
        HitAnswer(
            id=hit.id,
            rank=place,
            first_stage_rank=hit.rank,
            first_stage_place=places[hit.id],
            first_stage_score=hit.first_stage,
            score=hit.score,
            probability=hit.probability,
            duplicates=list(hit.duplicates),
            image=f"/images/{quote(hit.id, safe='')}",
            width=hit.width,
            height=hit.height,
        )
        for place, hit in enumerate(hits, start=1)
    ]


def _order(scored: Scored) -> list[int]:
    """Positions from best to worst; ties keep the request's order."""
    return sorted(scored.scores, key=lambda at: -scored.scores[at])


def _given(document: messages.Document) -> dict[str, Any]:
    return (
        {"text": document} if isinstance(document, str) else document.model_dump(exclude_none=True)
    )


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    if error.body and isinstance(error.body, bytes):  # FastAPI has read no JSON
        return refusal(415, "the body isn't sent as JSON: send Content-Type: application/json.")
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return refusal(400, "the body is not JSON.")
    parts = [str(part) for part in first["loc"][1:]]  # without body or query
    if len(parts) > 1 and parts[0] in ("texts", "documents") and not parts[1].isdecimal():
        parts = parts[1:]  # the kind of body that was assumed
    message = str(first["msg"]).removeprefix("Value error, ")
    if parts[:1] == ["documents"] and len(parts) > 1:
        parts, message = parts[:2], "expected the id of a stored picture, or an object with one."
    where = ".".join(parts)
    return refusal(422, f"{where}: {message}" if where else message)


async def _refused(_: Request, error: HTTPException) -> Response:
    return refusal(error.status_code, str(error.detail), dict(error.headers or {}))


async def _failed(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return refusal(500, "something went wrong here; the server's log says what.")

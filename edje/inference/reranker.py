"""The Reranker: the second stage of a user's own image search."""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from huggingface_hub import HfApi
from jaxtyping import Float
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.images.pictures import Picture
from edje.inference.checkpoint import (
    Checkpoint,
    each_budget,
    keep_first_tokens,
    load_checkpoint,
)
from edje.inference.encoded_images import (
    EncodedImage,
    EncodedImages,
    rows_among,
    stacked,
)
from edje.inference.example_texts import example_texts
from edje.inference.given_numbers import Numbers, given_numbers, number_per
from edje.inference.location import find_checkpoint, shipped_folder
from edje.inference.picture_encoder import PictureEncoder
from edje.inference.precisions import device_of, precision_of
from edje.inference.published_model import published_checkpoint
from edje.inference.run_choices import (
    RunChoices,
    backbone_of,
    calibrations_for,
    choices_of,
    fitting,
)
from edje.inference.saved_folder import BACKBONE, METRICS, metrics_of, save_folder
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.inference.text_image_pairs import (
    Pairs,
    check_query,
    pairs_of,
    pairs_of_query,
    several,
    texts_of,
)
from edje.language_model import tokenize
from edje.quiet import quiet_transformers
from edje.ranges import check_count, check_path, check_probability
from edje.records import Direction, TextBatch
from edje.retrieval.calibration import Calibration
from edje.retrieval.exact import exact_products, own_arithmetic
from edje.tokens.sharing import reaching_hub

log = logging.getLogger(__name__)


@dataclass
class _Built:
    """What rerankers with the same weights share, each built on first use."""

    scorers: dict[torch.device, StoredTokenScorer] = field(default_factory=dict)
    backbone: Backbone | None = None


class Reranker:
    """A trained reranker for use from Python, from pictures to ranked results.

    >>> reranker = Reranker.from_pretrained("photos")                    # doctest: +SKIP
    >>> reranker.rank("two dogs", ["a.jpg", "b.jpg"], top_k=1)           # doctest: +SKIP
    [{'corpus_id': 1, 'score': ..., 'probability': ...}]
    >>> encoded = reranker.encode(paths)         # once per image        # doctest: +SKIP
    >>> reranker.rank("two dogs", encoded)       # once per query        # doctest: +SKIP

    Needs neither lightning nor hydra. The frozen backbone, unless given, is built when the first
    picture is encoded. Only one thread at a time may use a reranker.

    Raises:
        EdjeError: the given backbone isn't the one that the reranker was trained with.
    """

    num_labels: ClassVar[int] = 1  # evaluators of sentence-transformers read it

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: torch.dtype = torch.float32,
        metrics: dict[str, Any] | None = None,
        name: str = "",
        backbone: Backbone | None = None,
    ):
        self.checkpoint = checkpoint
        self.name = name  # as from_pretrained takes it, with @<revision>; a path is absolute
        self.metrics = metrics  # from its run's evaluation, as in metrics.json
        self.model = checkpoint.model.eval()
        self.precision = precision
        self.choices: RunChoices = choices_of(checkpoint)
        self._built = _Built()
        self._given = None if backbone is None else fitting(checkpoint, backbone)

    def __repr__(self) -> str:
        tokens, precision = self.model.adapter.num_tokens, str(self.precision)
        return (
            f"Reranker(trained on {self.checkpoint.label}; {tokens} tokens per image, "
            f"score={self.choices.score}, {precision.removeprefix('torch.')} on {self.device})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Sent and copied without what is built on first use."""
        kept = {name: value for name, value in vars(self).items() if name != "picture_encoder"}
        return kept | {"_built": _Built()}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> "Reranker":
        """Move it to another device, with all that is built; returns itself.

        Raises:
            EdjeError: there is no such device.
        """
        self.model.to(device_of(device))
        for other in self._built.scorers.keys() - {self.device}:
            del self._built.scorers[other]
        if isinstance(tower := self._built.backbone, torch.nn.Module):
            tower.to(self.device)
        return self

    @classmethod
    @own_arithmetic()
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: str | torch.dtype | None = None,
        num_tokens: int | None = None,
        revision: str | None = None,
        backbone: Backbone | None = None,
    ) -> "Reranker":
        """A reranker from a path; if nothing is there, by shipped name or by name on the hub.

        Args:
            name_or_path: a run folder, a .ckpt, a folder of `save_pretrained`, or a file in the
                published format; "photos" or "shapes", which come with edje; a repository on the
                hub with a saved folder or a published checkpoint. The log says which was used.
            device: where it computes; by default a CUDA device if there is one, else the CPU.
            precision: number format of the joint encoder: fp32, bf16 (fp32 if the device has no
                instructions for bf16), fp16 or int8; by default the one that its run scored
                with. Scores are always float32.
            num_tokens: use fewer of nested visual tokens; by default as in its run.
            revision: branch, tag or commit on the hub; or end the name in @<revision>.
            backbone: the one that it was trained with; by default built from its run's
                configuration.

        Raises:
            EdjeError: there is no readable reranker of that name, it wasn't trained for
                `num_tokens` or with this backbone, or the device or the precision isn't available
                here.
        """
        check_path("name_or_path", name_or_path)
        file = find_checkpoint(Path(name_or_path).expanduser(), revision)
        log.info("%s: %s", name_or_path, _origin(name_or_path, file))
        with quiet_transformers():
            checkpoint = published_checkpoint(name_or_path, file) or load_checkpoint(file)
        choices = choices_of(checkpoint)
        fewer = choices.num_tokens if num_tokens is None else num_tokens
        if fewer is not None:
            checkpoint = keep_first_tokens(checkpoint, fewer, is_recorded=num_tokens is None)
        where = device_of(device)
        checkpoint.model.to(where)
        chosen = precision_of(precision, choices.precision, where)
        path = Path(name_or_path).expanduser()
        name = str(path.resolve() if path.exists() else name_or_path)
        if revision is not None and not name.endswith(f"@{revision}"):
            name = f"{name}@{revision}"
        return cls(checkpoint, chosen, metrics_of(file), name, backbone)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        num_tokens: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> "Reranker":
        """Deprecated name of `from_pretrained`, on the CPU and in float32; the next release
        removes it.

        Raises:
            EdjeError: as `from_pretrained`.
        """
        warnings.warn(
            "Reranker.load is Reranker.from_pretrained now; the next release will remove load.",
            FutureWarning,
            stacklevel=2,
        )
        return cls.from_pretrained(path, device="cpu", precision=precision, num_tokens=num_tokens)

    @own_arithmetic()
    def encode(
        self,
        images: Iterable[Picture],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> EncodedImages:
        """Embeddings and visual tokens of pictures, to keep and rank many times.

        Args:
            images: paths, PIL images, bytes of image files, or uint8 arrays.
            batch_size: pictures per run of the tower.
            show_progress_bar: by default if there is more than one batch.

        Raises:
            EdjeError: a picture can't be read (the message gives its place in the list and why),
                or the backbone can't be built here.
        """
        check_count("batch_size", batch_size, 1)  # before the tower is loaded
        return self.picture_encoder.images(
            several(images, "pictures"), batch_size, show_progress_bar
        )

    @own_arithmetic()
    def encode_text(self, texts: Iterable[str]) -> Float[Tensor, "texts embedding"]:
        """L2-normalised embeddings of the first stage, in float32; texts are cleaned here.

        Raises:
            EdjeError: the backbone can't be built here.
        """
        wanted = texts_of(texts, "texts")
        return self.picture_encoder.texts(wanted)

    @own_arithmetic()
    def rank(
        self,
        query: str | Picture | EncodedImage,
        documents: EncodedImages | Iterable[Any],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        min_probability: float | None = None,
        gallery_size: int | None = None,
        first_stage: Numbers | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> list[dict[str, Any]]:
        """The documents from best to worst, in the format of sentence-transformers' CrossEncoder.

        A row is `{"corpus_id": its place among the documents, "score": …}`. With
        `return_documents` it has `"text"`, the document itself. If the reranker has a calibration,
        it has `"probability"`, that this document is right. Scores are those that the run ranked
        with: match logits, or both stages together.

        Args:
            query: a text, or a picture; give a picture's path as pathlib.Path.
            documents: for a text, pictures, rows of `encode` or its result; for a picture, texts.
            top_k: number of best documents; by default all.
            return_documents: whether the rows also hold the documents.
            batch_size: pictures per run of the tower.
            show_progress_bar: for encoding pictures; by default if there are several batches.
            min_probability: leave out documents with a lower probability; the list may be empty.
            gallery_size: number of images (for a picture: texts) that were searched, if the
                documents are the best of more; by default their own number. Only probabilities
                depend on it.
            first_stage: the query's first-stage scores with the documents, as in `score_images`.
            prompt_name: None, as callers of a CrossEncoder pass it; no other is accepted.
            prompt: likewise.

        Raises:
            EdjeError: a picture can't be read; query and documents aren't a text and pictures, or
                a picture and texts; `min_probability` is set and there is no calibration; the
                gallery is smaller than the list; or there is a prompt.
        """
        _check_prompt(prompt_name, prompt)
        if top_k is not None:
            check_count("top_k", top_k, 0)
        candidates = several(documents, "documents")
        if gallery_size is None:
            gallery_size = len(candidates)
        check_count("gallery_size", gallery_size, len(candidates))
        pairs = pairs_of_query(query, candidates)
        scores = self._scores(pairs, batch_size, show_progress_bar, first_stage)
        order = scores.argsort(descending=True, stable=True)
        direction: Direction = "t2i" if isinstance(query, str) else "i2t"
        if min_probability is not None:
            check_probability("min_probability", min_probability)
            self._calibration(direction)  # raises if there is none
        probability = self.probability(scores, gallery_size, direction)
        if probability is not None and min_probability is not None:
            order = order[probability[order] >= min_probability]
        rows: list[dict[str, Any]] = []
        for place in order[:top_k].tolist():
            row: dict[str, Any] = {"corpus_id": place, "score": scores[place].item()}
            if probability is not None:
                row["probability"] = probability[place].item()
            if return_documents:
                row["text"] = candidates[place]
            rows.append(row)
        return rows

    def probability(
        self, scores: Numbers, gallery_size: int, direction: Direction = "t2i"
    ) -> Float[Tensor, "pool"] | None:
        """Probability that each result of one search is right, from the scores of its list.

        `gallery_size` is the number of images (t2i) or texts (i2t) that were searched. None if
        the reranker has no calibration, because its training had no dev images.

        Raises:
            EdjeError: the scores aren't a list of numbers, the size isn't a count of at least
                theirs, or the direction isn't t2i or i2t.
        """
        if direction not in get_args(Direction):
            raise EdjeError(f"probability: direction={direction!r}, expected t2i or i2t.")
        if not (isinstance(scores, Tensor) and scores.is_floating_point()):
            scores = torch.tensor(given_numbers(scores, "scores"))
        if scores.ndim != 1:
            raise EdjeError(
                f"scores: got numbers of shape {tuple(scores.shape)}, expected those of one search."
            )
        check_count("gallery_size", gallery_size, len(scores))
        if direction not in self._calibrations or not len(scores):
            return None
        return self._calibrations[direction].probability(scores, gallery_size)

    def threshold(self, precision: float, direction: Direction = "t2i") -> float:
        """The `min_probability` above which top answers had this precision on dev.

        Raises:
            EdjeError: the reranker has no calibration, or no threshold had this precision on dev.
        """
        return self._calibration(direction).threshold(precision)

    @own_arithmetic()
    def predict(
        self,
        pairs: Iterable[Any],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Any:
        """The score of each (query, document); for a single pair, one number.

        Repeated texts and pictures are encoded once.

        Args:
            pairs: text and picture, or picture and text, as in `rank`.
            batch_size: pictures per run of the tower.
            show_progress_bar: for encoding pictures; by default if there are several batches.
            convert_to_numpy: return a float32 array; else a list of tensors.
            convert_to_tensor: return a tensor instead of the array.
            prompt_name: None, as evaluators of sentence-transformers pass it.
            prompt: likewise.

        Raises:
            EdjeError: as `rank`.
        """
        _check_prompt(prompt_name, prompt)
        given = several(pairs, "pairs")
        is_one = len(given) == 2 and not any(isinstance(part, tuple | list) for part in given)
        found = pairs_of([given] if is_one else given)
        scores = self._scores(found, batch_size, show_progress_bar).float()
        if is_one:
            return scores[0] if convert_to_tensor else np.float32(scores.item())
        if convert_to_tensor:
            return scores
        return scores.numpy() if convert_to_numpy else list(scores)

    @own_arithmetic()
    def score_images(
        self,
        query: str,
        images: EncodedImages,
        first_stage: Numbers | None = None,
    ) -> Float[Tensor, "images"]:
        """The scores of a text with encoded images by which `rank` orders them, on the CPU.

        In float64 if both stages are summed, else in float32. `first_stage` are the text's
        first-stage scores with these images, if known; otherwise they are computed here.

        Raises:
            EdjeError: as `rank`.
        """
        return self._scores(pairs_of_query(query, images), len(images), False, first_stage)

    @own_arithmetic()
    def score_several(
        self,
        queries: Iterable[str],
        images: EncodedImages,
        rows: Iterable[Numbers],
        first_stage: Iterable[Numbers] | None = None,
    ) -> list[Float[Tensor, "_"]]:
        """`score_images` of several texts, each with the images of its rows, scored together.

        Scoring texts together only changes rounding.

        Raises:
            EdjeError: as `rank`; or the counts differ, or there is no image of a row.
        """
        queries = texts_of(queries, "queries")
        chosen = [rows_among(len(images), some) for some in several(rows, "rows")]
        given = None if first_stage is None else several(first_stage, "first_stage")
        if len(queries) != len(chosen) or (given is not None and len(queries) != len(given)):
            stages = "" if given is None else f", and first-stage scores for {len(given)}"
            raise EdjeError(
                f"score_several: got {len(queries)} queries and rows for {len(chosen)}{stages}. "
                "Give rows for each query."
            )
        if not queries:
            return []
        for query in queries:
            check_query(query)
        texts = {text: row for row, text in enumerate(dict.fromkeys(queries))}
        counts = [len(some) for some in chosen]
        of_pairs = torch.tensor([texts[text] for text in queries]).repeat_interleave(
            torch.tensor(counts)
        )
        is_t2i = torch.ones_like(of_pairs, dtype=torch.bool)
        pairs = Pairs(list(texts), images, of_pairs, torch.cat(chosen), is_t2i)
        first = None
        if given is not None:
            each = zip(counts, given, strict=True)
            first = torch.cat([number_per(count, some, "first_stage") for count, some in each])
        return list(self._scores(pairs, len(images), False, first).split(counts))

    @property
    def model_card_data(self) -> "_EvaluatorsCard":
        """Where evaluators of sentence-transformers write their results, which are not kept."""
        return _EvaluatorsCard()

    @property
    def token_budgets(self) -> list[int]:
        """Numbers of visual tokens that it was trained for, ascending; the last is all of them."""
        return [count for count, _ in each_budget(self.checkpoint)]

    def with_first_tokens(self, num_tokens: int) -> "Reranker":
        """The same reranker, with shared weights, that reads only the first of nested tokens.

        Raises:
            EdjeError: it wasn't trained for this number of tokens.
        """
        few = Reranker(
            keep_first_tokens(self.checkpoint, num_tokens), self.precision, self.metrics, self.name
        )
        few._built, few._given = self._built, self._given
        return few

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        with_backbone: bool = True,
        notes: str | None = None,
        licence: str | None = None,
    ) -> None:
        """Write the reranker into a folder that `from_pretrained` reads anywhere.

        The folder holds `model.safetensors`, `config.json`, the tokenizer and a model card with
        its run's results. Frozen parts from the hub or from a known package are named, with their
        revision and digest, not copied. Local files of the backbone are copied. Without
        `with_backbone` they are named by their paths instead, for use on this machine only.

        Args:
            folder: a new or empty one, or one that this has written.
            with_backbone: copy local files of the backbone.
            notes: for the model card, in Markdown, such as terms of the training data.
            licence: of the reranker, as the hub names it, such as cc-by-nc-4.0.

        Notes and licence are kept: rerankers that start from this one name them in their cards.
        None leaves what it has.

        Raises:
            EdjeError: the folder holds something else, or can't be written.
        """
        check_path("folder", folder)
        save_folder(
            self.checkpoint,
            Path(folder).expanduser(),
            self.metrics,
            with_backbone=with_backbone,
            notes=notes,
            licence=licence,
        )

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = True,
        token: str | None = None,
        notes: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; returns the commit's URL.

        `notes` and `licence` are those of `save_pretrained`.

        A missing repository is created, private by default.

        Raises:
            EdjeError: the hub refuses the upload or can't be reached.
        """
        with tempfile.TemporaryDirectory() as scratch, reaching_hub(f"model {repo}"):
            folder = Path(scratch) / "reranker"
            self.save_pretrained(folder, notes=notes, licence=licence)
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message="A reranker of edje",
                delete_patterns=[METRICS, f"{BACKBONE}/*"],  # of an earlier upload
            )
        return str(commit.commit_url)

    @own_arithmetic()
    @torch.no_grad()
    def compress(
        self, tokens: Float[Tensor, "images vision_tokens token_width"]
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens to store, from the backbone's tokens of each image, on their device.

        Raises:
            EdjeError: the tokens' width isn't the one that the model was trained on.
        """
        self._check_width(tokens, "compress")
        return self.model.compress(self._moved(tokens)).to(tokens.device)

    @own_arithmetic()
    @torch.no_grad()
    def attention_maps(
        self, tokens: Float[Tensor, "images vision_tokens token_width"]
    ) -> Float[Tensor, "images heads tokens vision_tokens"]:
        """Where `compress` looks: how much each visual token reads of each backbone token.

        The softmax weights of the adapter's attention, head by head, on the tokens' device; each
        row sums to 1.

        Raises:
            EdjeError: as `compress`, or the adapter has no attention of learned queries.
        """
        self._check_width(tokens, "attention_maps")
        maps = self.model.adapter.attention_maps(self._moved(tokens))
        if maps is None:
            raise EdjeError(
                f"attention_maps: {type(self.model.adapter).__name__} has no attention of learned "
                "queries over vision tokens. Use a run with adapter=compression."
            )
        return maps.to(tokens.device)

    def _moved(self, tokens: Tensor) -> Tensor:
        """Tokens in float32 on the model's device."""
        return tokens.to(self.device, torch.float32)

    @own_arithmetic()
    @torch.no_grad()
    def score(
        self,
        captions: Sequence[str],
        visual: Float[Tensor, "pairs tokens width"],
        first_stage: Numbers | None = None,
        direction: Direction = "t2i",
    ) -> Float[Tensor, "pairs"]:
        """Match logits in float32 of caption i with image i; captions are cleaned here, once.

        Raises:
            EdjeError: the numbers of captions and images differ, the tokens' shape isn't the
                reranker's, the direction isn't t2i or i2t, or the model was trained with the
                first-stage score (score=residual) and `first_stage` is missing.
        """
        captions = texts_of(captions, "captions")
        if direction not in get_args(Direction):
            raise EdjeError(f"score: direction={direction!r}, expected t2i or i2t.")
        if len(captions) != len(visual):
            raise EdjeError(
                f"score: got {len(captions)} captions and {len(visual)} images, expected pairs. "
                "Repeat the query for each of its candidates."
            )
        if self.model.residual is not None and first_stage is None:
            raise EdjeError(
                "score: this model was trained with score=residual and reads the first-stage "
                "score: pass first_stage, the cosine similarities of the pairs."
            )
        if not captions:
            return torch.empty(0)
        _check_tensor(visual, "score")
        self._check_visual(visual.shape[1:])
        different = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        texts = torch.tensor([different[caption] for caption in captions])
        images = torch.arange(len(visual))
        first = torch.zeros(len(captions))
        if first_stage is not None:
            first = number_per(len(captions), first_stage, "first_stage")
        return self._logits(list(different), visual, texts, images, first, direction)

    def _scores(
        self,
        pairs: Pairs,
        batch_size: int,
        show_progress_bar: bool | None,
        first_stage: Numbers | None = None,
    ) -> Float[Tensor, "pairs"]:
        """Final scores of the pairs; in float64 if both stages are summed."""
        if not len(pairs.text_rows):
            return torch.empty(0)
        images = pairs.images
        if not isinstance(images, EncodedImages):
            images = self._encoded(images, batch_size, show_progress_bar, pairs.image_places)
        self._check_visual(images.tokens.shape[1:])
        first = torch.zeros(len(pairs.text_rows))
        if first_stage is not None:
            first = number_per(len(first), first_stage, "first_stage")
        elif self.choices.score != "joint":
            words = self.encode_text(pairs.texts)
            width = words.shape[1]
            if images.embeddings.shape[1] != width:
                raise EdjeError(
                    f"got embeddings of {images.embeddings.shape[1]} numbers, but this reranker's "
                    f"have {width}. Encode the images with this reranker."
                )
            with exact_products():
                pictures = images.embeddings.float().cpu()
                if len(words) == 1:
                    first = (pictures @ words[0])[pairs.image_rows]
                else:
                    first = (words[pairs.text_rows] * pictures[pairs.image_rows]).sum(dim=1)
        scores = torch.empty(len(first), dtype=torch.float64)
        chosen_by: dict[Direction, Tensor] = {"t2i": pairs.is_t2i, "i2t": ~pairs.is_t2i}
        for direction, chosen in chosen_by.items():
            if chosen.any():
                scores[chosen] = self._final(pairs, images, first, chosen, direction)
        if not scores.isfinite().all():
            wrong = pairs.image_rows[~scores.isfinite()].unique().tolist()
            some = ", ".join(map(str, wrong[:5])) + (", …" if wrong[5:] else "")
            raise EdjeError(
                f"image {some} (from 0): the score isn't a finite number, as the embedding or the "
                "tokens aren't. Encode it again, or leave it out."
            )
        return scores if self.choices.score == "sum" else scores.float()

    def _final(
        self,
        pairs: Pairs,
        images: EncodedImages,
        first: Tensor,
        chosen: Tensor,
        direction: Direction,
    ) -> Tensor:
        """Final scores of the chosen pairs, all of one direction."""
        rows, first = (pairs.text_rows[chosen], pairs.image_rows[chosen]), first[chosen]
        with torch.no_grad():
            joint = self._logits(pairs.texts, images.tokens, *rows, first, direction)
        if self.choices.score != "sum":
            return joint.double()
        sums = self.checkpoint.fusion.get(int(self.model.adapter.num_tokens), {})
        if direction not in sums:
            raise EdjeError(
                f"this reranker's run has score=sum, but no weights for it were fitted with "
                f"{self.model.adapter.num_tokens} tokens. Train with data.dev_images > 0, or use "
                "the single steps: encode, score."
            )
        return sums[direction].of(first, joint)

    def _logits(
        self,
        texts: Sequence[str],
        visual: Tensor,
        text_rows: Tensor,
        image_rows: Tensor,
        first: Tensor,
        direction: Direction,
    ) -> Tensor:
        """Match logits of texts and visual tokens by row, in float32 on the CPU."""
        tokenizer = self.checkpoint.language_model.tokenizer
        words = tokenize(tokenizer, [clean_caption(text) for text in texts])
        is_t2i = direction == "t2i"
        queries, candidates = (text_rows, image_rows) if is_t2i else (image_rows, text_rows)
        return self._scorer(ScoringSet(words, visual))(direction, queries, candidates, first)

    @property
    def _calibrations(self) -> Mapping[Direction, Calibration]:
        return calibrations_for(self.checkpoint, self.choices.score)

    def _calibration(self, direction: Direction) -> Calibration:
        if direction not in self._calibrations:
            raise EdjeError(
                f"this reranker has no calibration of {direction} for score={self.choices.score}: "
                "it is fitted at the end of a training that has dev images (data.dev_images > 0)."
            )
        return self._calibrations[direction]

    def _scorer(self, collection: ScoringSet) -> StoredTokenScorer:
        """The scorer on the model's device; its weights are laid out on first use."""
        device = self.device
        scorers = self._built.scorers
        if device not in scorers:
            examples = collection
            if self.precision == torch.int8:  # its ranges must also fit later queries
                words = example_texts(self.checkpoint.language_model.tokenizer)
                examples = ScoringSet(words, collection.visual)
            made = StoredTokenScorer(self.model, examples, self.precision)
            scorers[device] = made.on(_emptied(collection))  # it outlives the call's pictures
        return scorers[device].on(collection)

    @cached_property
    def picture_encoder(self) -> PictureEncoder:
        """The encoder behind `encode` and `encode_text`, built on first use.

        Raises:
            EdjeError: the backbone can't be built here.
        """
        if self._built.backbone is None:
            with quiet_transformers(), own_arithmetic():
                given = self._given
                self._built.backbone = backbone_of(self.checkpoint) if given is None else given
        return PictureEncoder(self._built.backbone, self.model, self.choices)

    def _encoded(
        self,
        images: Sequence[Picture | EncodedImage],
        batch_size: int,
        show_progress_bar: bool | None,
        places: Sequence[int],
    ) -> EncodedImages:
        """Pictures and encoded images as encoded images, in the same order.

        `places` are theirs in the caller's list, for messages.
        """
        for image in images:
            if isinstance(image, EncodedImage):
                self._check_visual(image.tokens.shape)
        fresh = {at: one for at, one in enumerate(images) if not isinstance(one, EncodedImage)}
        made = EncodedImages(torch.empty(0, 0), torch.empty(0, 0, 0))
        if fresh:
            of_fresh = [places[at] for at in fresh]
            made = self.picture_encoder.images(
                list(fresh.values()), batch_size, show_progress_bar, of_fresh
            )
        if len(made) == len(images):
            return made
        new = iter(made)
        return stacked([one if isinstance(one, EncodedImage) else next(new) for one in images])

    def _check_visual(self, shape: torch.Size) -> None:
        reads = int(self.model.adapter.num_tokens), self.model.joint.width
        if tuple(shape) != reads:
            raise EdjeError(
                f"got images encoded to {tuple(shape)} numbers each (tokens, width), but this "
                f"reranker reads {reads}. Encode them with this reranker."
            )

    def _check_width(self, tokens: Tensor, caller: str) -> None:
        _check_tensor(tokens, caller)
        width = self.checkpoint.facts.token_width
        if tokens.ndim != 3 or tokens.shape[2] != width:
            raise EdjeError(
                f"{caller}: got tokens of shape {tuple(tokens.shape)}, but this model reads "
                f"(images, tokens, {width}). Encode the images with the backbone it was trained on."
            )


def _check_tensor(tokens: Any, caller: str) -> None:
    if not isinstance(tokens, Tensor):
        raise EdjeError(
            f"{caller}: got a {type(tokens).__name__}, expected a tensor: torch.from_numpy makes "
            "one of an array, and encoded images have .tokens."
        )


class _EvaluatorsCard:
    def set_evaluation_metrics(self, *_: Any) -> None:
        """The card of a saved folder has the results of the run itself."""


def _check_prompt(prompt_name: Any, prompt: Any) -> None:
    for name, given in (("prompt_name", prompt_name), ("prompt", prompt)):
        if given is not None:
            raise EdjeError(
                f"{name}={given!r}: rerankers were trained on texts without a prompt. Leave it out."
            )


def _emptied(collection: ScoringSet) -> ScoringSet:
    """No captions and no images, of the same shapes; holds none of the collection's memory."""
    text, visual = collection.text, collection.visual
    assert isinstance(visual, Tensor)
    return ScoringSet(
        TextBatch(text.input_ids[:0].clone(), text.attention_mask[:0].clone()), visual[:0].clone()
    )


def _origin(given: str | Path, file: Path) -> str:
    if Path(given).expanduser().exists():
        return f"read from {file}"
    return f"{'comes with edje' if shipped_folder(str(given)) else 'from the hub'}, {file}"

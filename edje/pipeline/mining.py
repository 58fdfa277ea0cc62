"""Mining over the whole training set, for the loader to draw neighbours from."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from edje.backbones.pretrained import weights_digest
from edje.data.datamodules.cached_datamodule import CachedLoading, caption_keys
from edje.inference.checkpoint import Checkpoint
from edje.inference.device_cells import near
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.pipeline.collection import Collection
from edje.pipeline.devices import make_current, similarity_device
from edje.pipeline.kept import Facts, kept
from edje.pipeline.scoring import Scoring, visual_shape
from edje.pipeline.token_cache import Cache
from edje.pipeline.visual_tokens import visual_tokens
from edje.records import CandidateList
from edje.retrieval.rerank import rerank
from edje.retrieval.similar_images import hardest_by_scores, similar_images
from edje.tokens.codec import make_codec

MINER_POOL = 2  # candidates that a miner scores, per candidate kept


@dataclass(frozen=True)
class Mining:
    """Similar images of each training image, and everything they depend on.

    They are found by the first stage, from its embeddings of images and captions, or by a miner
    that rescores the first stage's.
    """

    cache: Cache
    loading: CachedLoading
    scoring: Scoring
    train: Collection
    images: Float[Tensor, "images embedding"]
    captions: Float[Tensor, "captions embedding"]
    miner: Checkpoint | None = None

    def lists(self) -> Int[Tensor, "images pool"] | None:
        """The lists from the cache, or computed; None if the loader wants none.

        They are kept under a hash of everything they depend on, so a changed first stage or
        another miner gives new lists.

        Raises:
            EdjeError: a margin leaves too few.
        """
        if not self.loading.neighbours:
            return None
        folder = self.cache.split_folder(self.train.split.dataset, "train")
        path = folder / f"mined-{self.digest()}.safetensors"
        return kept(path, lambda: {"similar": self.similar()})["similar"]

    def similar(self) -> Int[Tensor, "images pool"]:
        """The lists, computed."""
        train, images, captions, miner = self.train, self.images, self.captions, self.miner
        pool, margin = self.loading.mined_pool, self.loading.mined_margin
        margin = None if margin is None else float(margin)
        owner = train.image_of_caption
        keys = None if margin is None else caption_keys(train.texts)
        device = self.cache.device
        place = similarity_device(device)
        first_stage = partial(
            similar_images,
            images.to(place),
            captions.to(place),
            owner.to(place),
            caption_keys=None if keys is None else keys.to(place),
        )
        if miner is None:
            return first_stage(pool, margin=margin).cpu()
        found = first_stage(MINER_POOL * pool).cpu()
        del first_stage
        listed = torch.cat([owner[:, None], found[owner]], dim=1)  # its own image first
        cosines = torch.cat(
            [
                torch.einsum("cd,cpd->cp", captions[rows], images[listed[rows]])
                for rows in torch.arange(len(listed)).split(1024)
            ]
        )
        model = miner.model.to(make_current(device))
        codec = make_codec(self.cache.storage.compressed_codec, *visual_shape(miner))
        text = tokenize(miner.language_model.tokenizer, train.texts)
        first = CandidateList(
            "t2i", listed, cosines, listed == owner[:, None], torch.ones_like(owner)
        )
        precision = self.scoring.precision_on(device)
        with (
            visual_tokens(model, train, codec) as visual,
            tqdm(total=listed.numel(), desc="mine", unit="pair") as bar,
        ):
            stored = ScoringSet(text, near(visual, device))
            scorer = StoredTokenScorer(model, stored, precision)
            scores = rerank(
                first, scorer.launch, self.scoring.batch_size, bar.update, key=scorer.lengths
            ).joint
        return hardest_by_scores(found, scores[:, 1:], scores[:, :1], owner, pool, margin=margin)

    def digest(self) -> str:
        """A hash of what the lists depend on."""
        facts = Facts()
        for tensor in (self.images, self.captions, self.train.image_of_caption):
            facts.tensor(tensor)
        facts.text("\n".join(self.train.texts))
        chosen: list[object] = [self.loading.mined_pool, self.loading.mined_margin]
        if self.miner is not None:
            chosen += [weights_digest(self.miner.model), self.cache.storage.compressed_codec]
            chosen.append(self.scoring.precision_name)
        facts.text(str(chosen))
        return str(facts)

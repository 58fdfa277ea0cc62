"""Mining over the whole training set: what the loader's neighbours are drawn from."""

import logging
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone
from edje.data.datamodules.cached_datamodule import caption_keys
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.inference.device_cells import near
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.pipeline.collection import Collection
from edje.pipeline.devices import make_current, own_device, similarity_device
from edje.pipeline.kept import Facts, kept
from edje.pipeline.scoring import Scoring, visual_shape
from edje.pipeline.trained import load_trained
from edje.pipeline.visual_tokens import visual_tokens
from edje.records import CandidateList
from edje.retrieval.rerank import rerank
from edje.retrieval.similar_images import hardest_by_scores, similar_images
from edje.tokens.codec import make_codec

log = logging.getLogger(__name__)
MINER_POOL = 2  # a miner scores so many times as many candidates as are kept


def mined_images(
    cfg: DictConfig,
    train: Collection,
    images: Tensor,
    captions: Tensor,
    backbone: Backbone,
) -> Tensor | None:
    """Similar images of each training image, (images, pool); None where the loader wants none.

    By the first stage, or with `miner` by what that reranker makes of the first stage's. Kept in
    the cache under a hash of all they depend on: a changed first stage or another miner gives new
    lists.

    Raises:
        EdjeError: a miner without neighbours, or of another backbone; a margin that leaves too few.
    """
    if not cfg.loader.neighbours:
        if cfg.miner is not None:
            raise EdjeError(
                f"miner={cfg.miner}: loader.neighbours=0 draws none of the images it would mine. "
                "Use loader=neighbours, or leave miner out."
            )
        return None
    miner = None if cfg.miner is None else load_trained(cfg, "miner", backbone)
    digest = lists_digest(cfg, train, images, captions, miner)
    path = Path(cfg.cache_dir) / f"{train.split.dataset}-train" / f"mined-{digest}.safetensors"
    return kept(path, lambda: {"similar": mine(cfg, train, images, captions, miner)})["similar"]


def mine(
    cfg: DictConfig, train: Collection, images: Tensor, captions: Tensor, miner: Checkpoint | None
) -> Tensor:
    """The lists, computed."""
    pool, margin = cfg.loader.mined_pool, cfg.loader.mined_margin
    margin = None if margin is None else float(margin)
    owner = train.image_of_caption
    keys = None if margin is None else caption_keys(train.texts)
    device = own_device(cfg.trainer)
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
    scoring: Scoring = instantiate(cfg.scoring)
    model = miner.model.to(make_current(device))
    codec = make_codec(cfg.storage.compressed_codec, *visual_shape(miner))
    text = tokenize(miner.language_model.tokenizer, train.texts)
    first = CandidateList("t2i", listed, cosines, listed == owner[:, None], torch.ones_like(owner))
    with (
        visual_tokens(model, train, codec) as visual,
        tqdm(total=listed.numel(), desc="mine", unit="pair") as bar,
    ):
        stored = ScoringSet(text, near(visual, device))
        scorer = StoredTokenScorer(model, stored, scoring.precision)
        scores = rerank(
            first, scorer.launch, scoring.batch_size, bar.update, key=scorer.lengths
        ).joint
    return hardest_by_scores(found, scores[:, 1:], scores[:, :1], owner, pool, margin=margin)


def lists_digest(
    cfg: DictConfig, train: Collection, images: Tensor, captions: Tensor, miner: Checkpoint | None
) -> str:
    """A hash of what the lists depend on."""
    facts = Facts()
    for tensor in (images, captions, train.image_of_caption):
        facts.tensor(tensor)
    facts.text("\n".join(train.texts))
    chosen = [cfg.loader.mined_pool, cfg.loader.mined_margin]
    if miner is not None:
        codec, precision = cfg.storage.compressed_codec, cfg.scoring.precision
        chosen += [weights_digest(miner.model), codec, precision]
    facts.text(str(chosen))
    return str(facts)

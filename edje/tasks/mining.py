"""Mining over the whole training set: what the loader's neighbours are drawn from."""

import hashlib
import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone
from edje.data.datamodule import caption_keys
from edje.durable import new_file
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.inference.device_cells import near
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.records import CandidateList
from edje.retrieval.mining import hardest_by_scores, similar_images
from edje.retrieval.rerank import rerank
from edje.tasks.collection import Collection
from edje.tasks.devices import devices_of, make_current
from edje.tasks.scoring import Evaluation, visual_shape
from edje.tasks.trained import load_trained
from edje.tasks.visual_tokens import visual_tokens
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
    if path.is_file():
        return load_file(path)["similar"]
    mined = mine(cfg, train, images, captions, miner)
    with new_file(path) as temporary:
        save_file({"similar": mined}, temporary)
    return mined


def mine(
    cfg: DictConfig, train: Collection, images: Tensor, captions: Tensor, miner: Checkpoint | None
) -> Tensor:
    """The lists, computed."""
    pool, margin = cfg.loader.mined_pool, cfg.loader.mined_margin
    margin = None if margin is None else float(margin)
    owner = train.image_of_caption
    keys = None if margin is None else caption_keys(train.texts)
    if miner is None:
        return similar_images(images, captions, owner, pool, margin=margin, caption_keys=keys)
    found = similar_images(images, captions, owner, MINER_POOL * pool, caption_keys=keys)
    listed = torch.cat([owner[:, None], found[owner]], dim=1)  # its own image first
    cosines = torch.cat(
        [
            torch.einsum("cd,cpd->cp", captions[rows], images[listed[rows]])
            for rows in torch.arange(len(listed)).split(1024)
        ]
    )
    evaluation: Evaluation = instantiate(cfg.evaluation)
    device = make_current(devices_of(cfg.trainer)[0])
    model = miner.model.to(device)
    codec = make_codec(evaluation.codec, *visual_shape(miner))
    text = tokenize(miner.language_model.tokenizer, train.texts)
    first = CandidateList("t2i", listed, cosines, listed == owner[:, None], torch.ones_like(owner))
    with (
        visual_tokens(model, train, codec) as visual,
        tqdm(total=listed.numel(), desc="mine", unit="pair") as bar,
    ):
        stored = ScoringSet(text, near(visual, device))
        scorer = StoredTokenScorer(model, stored, evaluation.precision)
        scores = rerank(
            first, scorer.launch, evaluation.batch_size, bar.update, key=scorer.lengths
        ).joint
    return hardest_by_scores(found, scores[:, 1:], scores[:, :1], owner, pool, margin=margin)


def lists_digest(
    cfg: DictConfig, train: Collection, images: Tensor, captions: Tensor, miner: Checkpoint | None
) -> str:
    """A hash of what the lists depend on."""
    facts = hashlib.sha256()
    for embedded in (images, captions):
        facts.update(embedded.contiguous().numpy().tobytes())
    facts.update(train.image_of_caption.numpy().tobytes())
    facts.update("\n".join(train.texts).encode())
    chosen = [cfg.loader.mined_pool, cfg.loader.mined_margin]
    if miner is not None:
        chosen += [weights_digest(miner.model), cfg.evaluation.codec, cfg.evaluation.precision]
    facts.update(str(chosen).encode())
    return facts.hexdigest()[:12]

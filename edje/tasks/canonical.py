"""initial=canonical: adapter and evidence start from canonical correlations of the training set."""

import logging

import torch
from torch import Tensor

from edje.backbones.alignment import canonical_maps
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.language_model import tokenize
from edje.models.adapters import LinearPoolingAdapter
from edje.models.heads import word_positions
from edje.tasks.collection import Collection

log = logging.getLogger(__name__)

IMAGE_SHRINKAGE, TEXT_SHRINKAGE, POWER = 3.0, 1.0, 0.6  # those of the aligned first stage


@torch.inference_mode()
def canonical_start(start: Checkpoint, train: Collection) -> None:
    """Set the adapter's and the evidence's linear maps in closed form.

    Regularised canonical correlation analysis of the images' mean tokens with the mean states of
    their captions' words, where the visual tokens join them: mean token and mean word agree from
    the start, and token by token it is the start of a late interaction.

    Raises:
        EdjeError: the adapter is not a LinearPoolingAdapter, the joint encoder has no evidence, or
            the tokens have fewer channels than the joint encoder.
    """
    model = start.model
    adapter, evidence = model.adapter, model.evidence
    width, channels = model.joint.width, start.facts.token_width
    if not isinstance(adapter, LinearPoolingAdapter) or evidence is None or channels < width:
        raise EdjeError(
            f"initial=canonical: it needs adapter=linear_pooling (this is "
            f"{type(adapter).__name__}), joint.evidence=true (this is {evidence is not None}) and "
            f"tokens of at least the joint encoder's {width} channels (these have {channels})."
        )
    model.eval()
    images = torch.cat(
        [adapter.reduce(train.store.read(rows)).mean(dim=1) for rows in train.store_rows.split(64)]
    )
    texts = torch.cat([_mean_words(start, part) for part in _parts(train.texts, 256)])
    adapter.standardise.set_moments(images)
    evidence.standardise.set_moments(texts)
    maps = canonical_maps(
        adapter.standardise(images[:, None])[:, 0],
        evidence.standardise(texts[:, None])[:, 0],
        train.image_of_caption,
        width,
        IMAGE_SHRINKAGE,
        TEXT_SHRINKAGE,
        POWER,
    )
    adapter.project.weight.copy_(maps.image.weight.T)
    evidence.text.weight.copy_(maps.text.weight.T)
    adapter.project.bias.zero_()
    evidence.text.bias.zero_()
    model.train()
    log.info(
        "start: canonical correlations of %d images with their %d captions",
        len(images),
        len(texts),
    )


def _parts(texts: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _mean_words(start: Checkpoint, texts: tuple[str, ...]) -> Tensor:
    """Mean state of each caption's word pieces where the visual tokens join, (texts, width)."""
    text = start.model.joint.cut(tokenize(start.language_model.tokenizer, texts))
    states = start.model.joint.read_text(text.input_ids, text.attention_mask)
    present = word_positions(text.attention_mask).unsqueeze(-1)
    return (states * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)

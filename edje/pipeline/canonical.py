"""start=canonical and =contrastive: adapter and evidence start from training-set statistics."""

import logging

import torch
from torch import Tensor
from tqdm import tqdm

from edje.backbones.projections import ContrastiveRecipe, canonical_maps, contrastive_maps
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.language_model import tokenize
from edje.models.adapters import LinearPoolingAdapter
from edje.models.evidence import START_SCALE
from edje.models.heads import word_positions
from edje.pipeline.collection import Collection
from edje.pipeline.devices import moved

log = logging.getLogger(__name__)

# As in the aligned first stage.
IMAGE_SHRINKAGE, TEXT_SHRINKAGE, POWER = 3.0, 1.0, 0.6
CPU = torch.device("cpu")
EPOCHS, BATCH_SIZE, LEARNING_RATE = 80, 1000, 5e-4


def canonical_start(
    start: Checkpoint,
    train: Collection,
    seed: int | None = None,
    device: torch.device = CPU,
) -> None:
    """Set the adapter's and the evidence's linear maps in closed form.

    Regularised canonical correlation analysis of the images' mean tokens with the mean states of
    their captions' words, taken where the visual tokens join. So mean token and mean word agree
    from the start, and token by token this initialises a late interaction.

    With a seed (start=contrastive) the maps are then trained on the same means: symmetric
    InfoNCE over 1,000 images at a time, 80 epochs, with the adapter's and the evidence's channel
    dropout. No tower runs, so this takes a minute for some thousands of images, and allows larger
    batches than the training steps.

    Tokens and words are read on the device; afterwards the model is on the CPU again.

    Raises:
        EdjeError: the adapter is not a LinearPoolingAdapter, the joint encoder has no evidence, or
            the tokens have fewer channels than the joint encoder.
    """
    model = start.model
    adapter, evidence = model.adapter, model.evidence
    width, channels = model.joint.width, start.facts.token_width
    if not isinstance(adapter, LinearPoolingAdapter) or evidence is None or channels < width:
        raise EdjeError(
            f"start=canonical and =contrastive: they need adapter=linear_pooling (this is "
            f"{type(adapter).__name__}), joint.evidence=true (this is {evidence is not None}) and "
            f"tokens of at least the joint encoder's {width} channels (these have {channels})."
        )
    model.eval()
    with moved(model, device), torch.no_grad():  # runs the text tower and reads all tokens
        images = torch.cat(
            [
                adapter.reduce(train.store.read(rows, device=device)).mean(dim=1).cpu()
                for rows in train.store_rows.split(64)
            ]
        )
        texts = _mean_words(start, train.texts, device)
    with torch.no_grad():
        adapter.standardise.set_moments(images)
        evidence.standardise.set_moments(texts)
        images = adapter.standardise(images[:, None])[:, 0]
        texts = evidence.standardise(texts[:, None])[:, 0]
    shrinkage = (IMAGE_SHRINKAGE, TEXT_SHRINKAGE)
    maps = canonical_maps(images, texts, train.image_of_caption, width, *shrinkage, POWER)
    if seed is not None:
        recipe = ContrastiveRecipe(
            EPOCHS,
            BATCH_SIZE,
            LEARNING_RATE,
            adapter.standardise.dropout,
            evidence.standardise.dropout,
            1 / START_SCALE,
        )
        maps, loss = contrastive_maps(maps, images, texts, train.image_of_caption, recipe, seed)
        log.info("start: contrastive loss of the mean tokens and words %.2f", loss)
    with torch.no_grad():
        for layer, found in ((adapter.project, maps.image), (evidence.text, maps.text)):
            layer.weight.copy_(found.weight.T)
            layer.bias.copy_(found.bias)
    model.train()
    log.info(
        "start: canonical correlations of %d images with their %d captions",
        len(images),
        len(texts),
    )


def _mean_words(start: Checkpoint, texts: tuple[str, ...], device: torch.device) -> Tensor:
    """Mean state of each caption's word pieces where the visual tokens join, (texts, width).

    Captions of similar length are read together; a bar shows the progress.
    """
    joint = start.model.joint
    everything = joint.cut(tokenize(start.language_model.tokenizer, texts))
    lengths = everything.attention_mask.sum(dim=1)
    means = torch.empty(len(texts), joint.text_width)
    with tqdm(total=len(texts), desc="start: captions", unit="caption", leave=False) as bar:
        for rows in lengths.argsort(stable=True).split(256):
            longest = int(lengths[rows].max())
            mask = everything.attention_mask[rows, :longest].to(device)
            states = joint.read_text(everything.input_ids[rows, :longest].to(device), mask)
            present = word_positions(mask).unsqueeze(-1)
            mean = (states * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
            means[rows] = mean.cpu()
            bar.update(len(rows))
    return means

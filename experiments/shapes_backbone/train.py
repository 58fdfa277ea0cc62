"""Train the dual encoder that ships as backbone=shapes: a small SigLIP, from scratch.

    python experiments/shapes_backbone/train.py <folder to write> [--steps 4500]

Writes backbone/ (the model as transformers saves it, in 16 bits), curve.csv (text-to-image R@1 on
val during training) and metrics.json (of the last weights, as saved). Runs on a CPU; the same seed
and machine give the same weights.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from edje.captions import clean_caption
from edje.data.shapes.shapes_source import ShapesSource
from edje.images.decoder import open_image
from edje.records import DIRECTIONS, RetrievalSplit
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.training.optimisation import Optimisation

CUTOFFS = (1, 5, 10, 20)
MAX_SCALE = 100.0  # of the cosines, the same limit as CLIP's
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes of the model and its training; the defaults are those of the shipped files.

    Args:
        width: width of both towers and of the embedding.
        image_size, patch_size: pixels per side.
        temperature: the initial factor on the cosines in the loss.
        batch_size: images; each has `captions_per_image` captions.
        score_every: steps between two scores on val.
        seed: for weights, order and choice of captions.
    """

    width: int = 96
    num_heads: int = 3
    hidden_width: int = 384
    vision_layers: int = 3
    text_layers: int = 2
    image_size: int = 96
    patch_size: int = 24
    temperature: float = 15.0
    steps: int = 4500
    batch_size: int = 96
    captions_per_image: int = 2
    score_every: int = 250
    seed: int = 0
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(lr=1e-3, betas=[0.9, 0.98], final_lr=1e-5)
    )


@dataclass(frozen=True)
class Pairs:
    """A split in memory: its images, with an equal number of captions each."""

    pixels: UInt8[Tensor, "images 3 side side"]
    word_ids: Int[Tensor, "images captions length"]


def train(recipe: Recipe, source: ShapesSource, folder: Path) -> float:
    """Train on the source's train and write to `folder`; returns t2i R@1 on val in percent."""
    splits = {name: source.read(name) for name in ("train", "val")}
    texts = {name: captions(split) for name, split in splits.items()}
    tokenizer = word_tokenizer(texts["train"])
    processor = image_processor(recipe.image_size)
    torch.manual_seed(recipe.seed)
    model = new_siglip(recipe, tokenizer)
    pairs, val = (
        in_memory(splits[name], texts[name], tokenizer, processor) for name in ("train", "val")
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curve.csv").open("w", newline="") as file:
        curve = csv.writer(file)
        curve.writerow(["step", "recall@1"])
        for step in fit(recipe, model, pairs):
            if step % recipe.score_every == 0 or step == recipe.steps:
                curve.writerow([step, recall(model, val)["t2i"]["recall@1"]])
                file.flush()
    save(model, tokenizer, processor, folder / "backbone")
    saved = SiglipModel.from_pretrained(folder / "backbone", dtype=torch.float32)
    metrics = recall(saved, val)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics["t2i"]["recall@1"]


def fit(recipe: Recipe, model: SiglipModel, pairs: Pairs) -> Iterator[int]:
    """Train in bf16, in place; yields the number of steps done after each."""
    per_epoch = len(pairs.pixels) // recipe.batch_size
    optimiser, schedule = recipe.optimisation.build(model, recipe.steps, per_epoch)
    trained = [weight for group in optimiser.param_groups for weight in group["params"]]
    model.train()
    for step, batch in enumerate(batches(recipe, pairs), start=1):
        images, captions, length = batch.word_ids.shape
        with torch.autocast("cpu", dtype=torch.bfloat16):
            texts = embedded_texts(model, batch.word_ids.reshape(-1, length))
            pictures = embedded_images(model, batch.pixels)
            scale = model.logit_scale[0].exp().clamp(max=MAX_SCALE)
        loss = contrastive(pictures, texts.view(images, captions, -1), scale, model.logit_bias[0])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        yield step


def batches(recipe: Recipe, pairs: Pairs) -> Iterator[Pairs]:
    """The run's batches of images and some of their captions; functions of seed and number.

    Similar scenes share a batch only by chance, as in CLIP's training.
    """
    images, captions = pairs.word_ids.shape[:2]
    size = recipe.batch_size
    for number in range(recipe.steps):
        epoch, position = divmod(number, images // size)
        if position == 0:
            order = np.random.default_rng((recipe.seed, 1, epoch)).permutation(images)
        draws = np.random.default_rng((recipe.seed, 2, number)).random((size, captions))
        chosen = torch.from_numpy(np.argsort(draws, axis=1)[:, : recipe.captions_per_image].copy())
        rows = torch.from_numpy(order[position * size : (position + 1) * size])
        yield Pairs(pairs.pixels[rows], pairs.word_ids[rows[:, None], chosen])


def contrastive(
    images: Float[Tensor, "images embedding"],
    texts: Float[Tensor, "images captions embedding"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """CLIP's symmetric cross-entropy in nats; an image's own captions don't count as rivals.

    Embeddings are L2-normalised; logits are scale · cosine + bias.
    """
    count = texts.shape[1]
    owner = torch.arange(len(images)).repeat_interleave(count)
    logits = scale * (texts.flatten(0, 1) @ images.T) + bias  # (images * captions, images)
    own = owner[:, None] == torch.arange(len(images))
    t2i = F.cross_entropy(logits, owner)
    rivals = logits.masked_fill(own, -torch.inf).logsumexp(dim=0)  # (images,)
    positive = logits.gather(1, owner[:, None]).squeeze(1)
    i2t = (torch.logaddexp(positive, rivals[owner]) - positive).mean()
    return (t2i + i2t) / 2


def embedded_images(
    model: SiglipModel, pixels: UInt8[Tensor, "images 3 side side"]
) -> Float[Tensor, "images embedding"]:
    """L2-normalised image embeddings."""
    scaled = pixels.float() / 127.5 - 1
    return F.normalize(model.get_image_features(scaled).pooler_output.float(), dim=-1)


def embedded_texts(
    model: SiglipModel, word_ids: Int[Tensor, "captions length"]
) -> Float[Tensor, "captions embedding"]:
    """L2-normalised caption embeddings."""
    return F.normalize(model.get_text_features(word_ids).pooler_output.float(), dim=-1)


@torch.inference_mode()
def recall(model: SiglipModel, pairs: Pairs, chunk: int = 500) -> dict[str, dict[str, float]]:
    """Recall of both directions in percent."""
    count, captions, _ = pairs.word_ids.shape
    word_ids = pairs.word_ids.flatten(0, 1)
    images = torch.cat([embedded_images(model, part) for part in pairs.pixels.split(chunk)])
    texts = torch.cat([embedded_texts(model, part) for part in word_ids.split(chunk)])
    owner = torch.arange(count).repeat_interleave(captions)
    found = {}
    for direction in DIRECTIONS:
        lists = candidate_lists(images, texts, owner, direction, max(CUTOFFS))
        shares = recall_at_k(first_hit_ranks(lists.scores, lists.relevant), CUTOFFS)
        found[direction] = {f"recall@{k}": round(100 * share, 2) for k, share in shares.items()}
    return found


def new_siglip(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> SiglipModel:
    """A SigLIP with fresh weights."""
    tower = {
        "hidden_size": recipe.width,
        "intermediate_size": recipe.hidden_width,
        "num_attention_heads": recipe.num_heads,
        "hidden_act": "gelu",
    }
    config = SiglipConfig(
        text_config=tower
        | {
            "num_hidden_layers": recipe.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "projection_size": recipe.width,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
        },
        vision_config=tower
        | {
            "num_hidden_layers": recipe.vision_layers,
            "image_size": recipe.image_size,
            "patch_size": recipe.patch_size,
        },
    )
    config._attn_implementation = "eager"  # several times faster than sdpa here on a CPU
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(recipe.temperature)))
        model.logit_bias.zero_()
    return model


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word of the texts, with `[CLS] … [SEP]`, as long as the longest text.

    The joint encoder of joint=tiny uses it too.
    """
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.model_max_length = max(len(text.split()) for text in texts) + 2
    return fast


def image_processor(side: int) -> SiglipImageProcessor:
    """The image processor: transformers resizes with it, and so does `in_memory` in training."""
    size = {"height": side, "width": side}
    return SiglipImageProcessor(size=size, resample=Image.Resampling.BILINEAR)


def captions(split: RetrievalSplit) -> list[str]:
    """The captions as the text tower reads them."""
    return [clean_caption(caption.text) for caption in split.captions]


def in_memory(
    split: RetrievalSplit,
    texts: list[str],
    tokenizer: PreTrainedTokenizerFast,
    processor: SiglipImageProcessor,
) -> Pairs:
    """A split decoded and resized, with word ids padded to the full length.

    The text tower reads padding without a mask, as SigLIP does.
    """
    side = (processor.size["width"], processor.size["height"])
    resized = (
        open_image(image.path).resize(side, Image.Resampling(processor.resample))
        for image in split.images
    )
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in resized])
    word_ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return Pairs(pixels, word_ids["input_ids"].view(len(pixels), -1, tokenizer.model_max_length))


def save(
    model: SiglipModel,
    tokenizer: PreTrainedTokenizerFast,
    processor: SiglipImageProcessor,
    folder: Path,
) -> None:
    """Write model (16-bit safetensors), tokenizer and image processor."""
    half = SiglipModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    """Run the recipe of the shipped files, on training images without siblings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--cache", default="cache", help="where the scenes are rendered")
    given = parser.parse_args()
    source = ShapesSource(cache_dir=given.cache, train_images=12000, train_siblings=1)
    figure = train(Recipe(steps=given.steps), source, given.folder)
    sys.stdout.write(f"val t2i R@1: {figure:.2f} %\n")


if __name__ == "__main__":
    main()

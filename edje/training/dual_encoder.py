"""The LightningModule that trains a dual encoder on pixels and captions."""

from typing import Protocol

import lightning as L
import torch
from jaxtyping import Float, Int, UInt8
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipModel

from edje.objectives.contrastive import Contrastive
from edje.training.optimisation import Optimisation, seed_step

MAX_SCALE = 100.0  # of the cosines, as CLIP limits it


class ImageCaptions(Protocol):
    """A batch: images and an equal number of captions for each."""

    @property
    def pixels(self) -> UInt8[Tensor, "images 3 side side"]:
        """Pixels from 0 to 255."""
        ...

    @property
    def word_ids(self) -> Int[Tensor, "images captions length"]:
        """Captions padded to the text tower's full length."""
        ...


class DualEncoderModule(L.LightningModule):
    """Trains a SigLIP by a contrastive loss inside the batch.

    Rivals are the batch's other images and captions, drawn at random: nothing but chance puts
    two alike scenes into one batch, as in the training of CLIP.

    Args:
        model: the dual encoder.
        objective: the contrastive loss.
        optimisation: the optimiser and schedule to build.
        steps_per_epoch: optimiser steps that one rank alone needs for a pass over the images.
        seed: seeds dropout, were there any.
    """

    def __init__(
        self,
        model: SiglipModel,
        objective: Contrastive,
        optimisation: Optimisation,
        steps_per_epoch: int,
        seed: int,
    ):
        super().__init__()
        self.model = model.train()
        self.objective = objective
        self.optimisation = optimisation
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    def embed_images(
        self, pixels: UInt8[Tensor, "images 3 side side"]
    ) -> Float[Tensor, "images embedding"]:
        """L2-normalised image embeddings."""
        scaled = pixels.float() / 127.5 - 1
        return F.normalize(self.model.get_image_features(scaled).pooler_output.float(), dim=-1)

    def embed_captions(
        self, word_ids: Int[Tensor, "captions length"]
    ) -> Float[Tensor, "captions embedding"]:
        """L2-normalised caption embeddings."""
        return F.normalize(self.model.get_text_features(word_ids).pooler_output.float(), dim=-1)

    def training_step(self, batch: ImageCaptions, batch_idx: int) -> Tensor:
        """The contrastive loss of one batch."""
        seed_step(self.seed, batch_idx, self.global_rank)
        images, captions, length = batch.word_ids.shape
        texts = self.embed_captions(batch.word_ids.reshape(-1, length))
        scale = self.model.logit_scale[0].exp().clamp(max=MAX_SCALE)
        loss = self.objective(
            self.embed_images(batch.pixels),
            texts.view(images, captions, -1),
            scale,
            self.model.logit_bias[0],
        )
        self.log("train/loss", loss.detach())
        self.log("train/scale", scale.detach())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with its per-step schedule."""
        return self.optimisation.for_run(self.trainer, self.model, self.steps_per_epoch)


@torch.inference_mode()
def embed_split(
    module: DualEncoderModule,
    pixels: UInt8[Tensor, "images 3 side side"],
    word_ids: Int[Tensor, "captions length"],
    *,
    chunk: int = 500,
) -> tuple[Float[Tensor, "images embedding"], Float[Tensor, "captions embedding"]]:
    """Embeddings of a whole split in evaluation mode, in float32; on the module's device."""
    training = module.training
    module.eval()
    images = [module.embed_images(part.to(module.device)) for part in pixels.split(chunk)]
    captions = [module.embed_captions(part.to(module.device)) for part in word_ids.split(chunk)]
    module.train(training)
    return torch.cat(images), torch.cat(captions)

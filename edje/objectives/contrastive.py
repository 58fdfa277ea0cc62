"""Contrastive loss of a dual encoder, with several captions per image."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Contrastive:
    """Matches images and captions within the batch; an image's own captions are no rivals.

    `softmax` is CLIP's symmetric cross-entropy; `sigmoid` is SigLIP's, each pair for itself.
    """

    def __init__(self, *, form: Literal["softmax", "sigmoid"] = "softmax"):
        self.form = form

    def __call__(
        self,
        image_embeddings: Float[Tensor, "images embedding"],
        text_embeddings: Float[Tensor, "images captions embedding"],
        scale: Float[Tensor, ""],
        bias: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        """The loss in nats of L2-normalised embeddings, with logits scale · cosine + bias.

        In float32 under autocast too: a scale of 100 makes a difference of half a nat of what bf16
        rounds off a cosine.
        """
        images, captions, _ = text_embeddings.shape
        texts = text_embeddings.flatten(0, 1)
        owner = torch.arange(images, device=texts.device).repeat_interleave(captions)
        with torch.autocast(texts.device.type, enabled=False):
            cosines = texts.float() @ image_embeddings.float().T  # (images * captions, images)
        logits = scale * cosines + bias
        own = owner[:, None] == torch.arange(images, device=owner.device)
        if self.form == "sigmoid":
            return F.softplus(torch.where(own, -logits, logits)).sum() / len(texts)
        t2i = F.cross_entropy(logits, owner)
        rivals = logits.masked_fill(own, -torch.inf).logsumexp(dim=0)  # (images,)
        positive = logits.gather(1, owner[:, None]).squeeze(1)
        i2t = (torch.logaddexp(positive, rivals[owner]) - positive).mean()
        return (t2i + i2t) / 2

"""BLIP's image-text matching from transformers: cross attention into all of an image's features."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
)

from edje.benchmark.entry import Peer
from edje.benchmark.models import random_text
from edje.benchmark.settings import Benchmark

PATCH = 16


def blip_config(sizes: Benchmark) -> BlipConfig:
    """BLIP's base model by default: two towers of 12 layers, images of 384 pixels."""
    width, heads = sizes.blip_width, max(sizes.blip_width // 64, 1)
    shared: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": sizes.blip_layers,
        "num_attention_heads": heads,
    }
    ends = min(102, sizes.vocabulary - 1)
    return BlipConfig(
        text_config=BlipTextConfig(
            vocab_size=sizes.vocabulary,
            encoder_hidden_size=width,
            bos_token_id=ends,
            eos_token_id=ends,
            sep_token_id=ends,
            pad_token_id=0,
            **shared,
        ).to_dict(),
        vision_config=BlipVisionConfig(
            image_size=sizes.blip_image_size, patch_size=PATCH, **shared
        ).to_dict(),
        image_text_hidden_size=width,
    )


def blip_tokens(sizes: Benchmark) -> int:
    """Number of image features that the text attends to, including the class token's."""
    return (sizes.blip_image_size // PATCH) ** 2 + 1


class BlipRoad(Peer):
    """One query with k candidates, whose pixels or image features are on the device."""

    def __init__(self, sizes: Benchmark, k: int, device: torch.device, with_vision: bool):
        super().__init__(sizes, k, device)
        dtype = sizes.dtype(device)
        model = BlipForImageTextRetrieval(blip_config(sizes)).eval().requires_grad_(False)
        self.model = model.to(device, dtype)
        self.ids = random_text(sizes, sizes.text_tokens).to(device)
        self.vision = self.model.vision_model if with_vision else None
        shape: tuple[int, ...] = (3, sizes.blip_image_size, sizes.blip_image_size)
        if not with_vision:
            shape = (blip_tokens(sizes), sizes.blip_width)
        self.images = torch.randn(k, *shape).to(device, dtype)

    @torch.inference_mode()
    def scores(self, pairs: int, batch_size: int) -> Tensor:
        """Match logits; see `Peer.scores`."""
        scores = []
        for images in self.images[:pairs].split(batch_size):
            features = images if self.vision is None else self.vision(images).last_hidden_state
            ids = self.ids.expand(len(images), -1)
            states = self.model.text_encoder(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                encoder_hidden_states=features,
                encoder_attention_mask=torch.ones_like(features[..., 0], dtype=torch.long),
            ).last_hidden_state
            scores.append(self.model.itm_head(states[:, 0])[:, 1])
        return torch.cat(scores).float().cpu()

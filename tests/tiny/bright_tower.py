"""A dual encoder without weights, for what only hands pictures on."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edje.backbones.protocol import ImageEncoding
from tests.tiny.rerankers import FACTS


class BrightTower(torch.nn.Module):
    """Gives each picture tokens and an embedding by its first pixel; remembers its batches."""

    num_tokens, token_width = FACTS.num_tokens, FACTS.token_width
    num_heads, layer_norm_eps = FACTS.num_heads, FACTS.layer_norm_eps
    feature_width = text_width = 1
    embedding_width = FACTS.embedding_width

    def __init__(self, name: str = "tiny") -> None:
        super().__init__()
        self.name = name
        self.batches: list[int] = []

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    def encode_images(self, pixels: Tensor) -> ImageEncoding:
        self.batches.append(len(pixels))
        first = pixels[:, 0, 0, 0]
        tokens = first[:, None, None].expand(-1, self.num_tokens, self.token_width) / 256
        return ImageEncoding(tokens=tokens.contiguous(), features=first[:, None])

    def project_images(self, features: Tensor) -> Tensor:
        return features.expand(-1, self.embedding_width)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return torch.tensor([[float(len(text))] for text in texts])

    project_texts = project_images

    def identity(self) -> dict[str, str | int | float]:
        return {"name": self.name}

    text_identity = identity

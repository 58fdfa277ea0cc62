"""Mining: for every image of a training set, the images that its captions confuse it with."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def similar_images(
    image_embeddings: Float[Tensor, "images embedding"],
    text_embeddings: Float[Tensor, "captions embedding"],
    image_of_caption: Int[Tensor, "captions"],
    count: int,
    *,
    chunk: int = 1024,
) -> Int[Tensor, "images count"]:
    """Rows of the `count` other images most similar to each image's captions, hardest first.

    An image is as similar to another as its closest caption says. `count` is cut to the number of
    other images.
    """
    images = len(image_embeddings)
    count = min(count, images - 1)
    closest = torch.full((images, images), -torch.inf)
    for rows in torch.arange(len(text_embeddings)).split(chunk):
        similarity = text_embeddings[rows].float() @ image_embeddings.float().T
        index = image_of_caption[rows, None].expand(-1, images)
        closest.scatter_reduce_(0, index, similarity, reduce="amax")
    closest.fill_diagonal_(-torch.inf)
    return closest.topk(count, dim=1).indices

"""The image index: what will search a user's own images, first stage and reranker together."""

from pathlib import Path

from edje.errors import EdjeError


class ImageIndex:
    """An index over images, to be asked for the best images of a text; no version makes one yet.

    The name is taken so that programs can be written against it. Today a search is put together
    from a `TokenStore`, which holds each image's tokens and features, and a `Reranker`, which
    scores a query with the tokens of the candidates.
    """

    @classmethod
    def open(cls, path: str | Path) -> "ImageIndex":
        """Open an index.

        Raises:
            EdjeError: always, in this version: it can neither write nor read an index.
        """
        raise EdjeError(
            f"ImageIndex.open({str(path)!r}): this version of edje has no image index yet, it can "
            "neither build nor open one. What does its work now: edje.TokenStore.open(<folder or "
            "URL>) for the images' tokens, and edje.Reranker.from_pretrained(<run>)."
        )

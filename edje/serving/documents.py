"""A request's documents: ids of stored pictures, or uploaded pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from edje.errors import EdjeError
from edje.images.decoder import size_of
from edje.images.pictures import is_unicode
from edje.index.given_pictures import valid_id
from edje.serving.messages import DATA, LONGEST_ID, Document, DocumentObject, uploaded

MOST_UPLOADS = 32  # pictures in a request
UPLOAD_BYTES = 10 << 20
UPLOAD_PIXELS = 50_000_000  # of a picture …
REQUEST_PIXELS = 100_000_000  # … and of all in a request
SHOWN = 200  # characters of an id in a message


class BadDocument(EdjeError):
    """A document that is neither an id nor a picture."""


@dataclass(frozen=True)
class Documents:
    """Distinct ids, then pictures, and for each document the position of its own."""

    ids: list[str]
    pictures: list[bytes]
    places: list[int]


def documents_of(given: Sequence[Document]) -> Documents:
    """The documents of a request, each id once.

    Raises:
        BadDocument: one is neither an id nor a picture, or too large.
    """
    ids: dict[str, int] = {}
    pictures: list[bytes] = []
    found: list[str | int] = []
    pixels = 0
    for number, one in enumerate(given):
        image, name = _parts(number, one)
        if name is not None:
            ids.setdefault(name, len(ids))
            found.append(name)
            continue
        assert image is not None
        if len(pictures) == MOST_UPLOADS:
            raise BadDocument(f"document {number}: more than {MOST_UPLOADS} pictures in a request.")
        content, size = _picture(number, image)
        pixels += size
        if pixels > REQUEST_PIXELS:
            raise BadDocument(
                f"document {number}: the pictures up to here have {pixels:,} pixels together, more "
                f"than the limit of {REQUEST_PIXELS:,}."
            )
        pictures.append(content)
        found.append(len(pictures) - 1)
    places = [ids[one] if isinstance(one, str) else len(ids) + one for one in found]
    return Documents(list(ids), pictures, places)


def _parts(number: int, given: Document) -> tuple[str | None, str | None]:
    """The id and the picture of a document, one of them None."""
    if isinstance(given, str):
        given = DocumentObject.model_construct(text=given)
    text, name, image = given.text, given.id, given.image
    if sum(one is not None for one in (text, name, image)) != 1:
        raise BadDocument(
            f"document {number}: expected one of text or id, the id of a stored picture, and "
            "image, a picture in base64."
        )
    if text is not None and text[: len(DATA)].lower() == DATA:
        image = text
    elif text is not None:
        name = text
    if name is not None and (len(name) > LONGEST_ID or "\0" in name or not is_unicode(name)):
        raise BadDocument(f"document {number}: {shown(name)} can't be the id of a picture.")
    return image, None if name is None else valid_id(name)


def _picture(number: int, given: str) -> tuple[bytes, int]:
    """The file of a picture, and the number of its pixels."""
    try:
        content = uploaded(given)
        if len(content) > UPLOAD_BYTES:
            raise ValueError(f"a file of more than {UPLOAD_BYTES >> 20} MiB")
        width, height = size_of(content)
    except ValueError as error:
        raise BadDocument(f"document {number}: {error}.") from error
    except Exception as error:  # decoders raise anything
        raise BadDocument(f"document {number}: it can't be read as a picture.") from error
    pixels = width * height
    if pixels > UPLOAD_PIXELS:
        raise BadDocument(
            f"document {number}: {pixels:,} pixels, more than the limit of {UPLOAD_PIXELS:,}."
        )
    return content, pixels


def shown(name: str) -> str:
    """An id in a message: quoted, with unprintable characters escaped, cut if too long."""
    return ascii(name[:SHOWN]) if not is_unicode(name) else repr(name[:SHOWN])

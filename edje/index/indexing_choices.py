"""What can be chosen of an indexing: read by the configuration's checks, so it imports nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """Sources, and the index that they go into.

    Args:
        source: a path, or several: folders, files, tars, Parquet files; also with `*`.
        into: folder of the index.
        reranker: name or path; by default that of the index, of a new one "photos".
        prefix: put before the ids.
        sync: remove what came from the folders and is gone.
    """

    source: str | list[str] | None = None
    into: str | None = None
    reranker: str | None = None
    prefix: str | None = None
    sync: bool = False

"""The settings of an indexing; the configuration's checks read this, so it imports nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """Sources, and the index that they go into.

    Args:
        source: one or several paths: folders, files, tars, Parquet files; also with `*`.
        into: folder of the index.
        reranker: name or path; by default the index's own, for a new one "photos".
        prefix: put before the ids.
        sync: remove pictures that came from the folders and are gone.
    """

    source: str | list[str] | None = None
    into: str | None = None
    reranker: str | None = None
    prefix: str | None = None
    sync: bool = False

"""The image index: a search over a user's own pictures, first stage and reranker together."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from edje.errors import EdjeError
from edje.index.additions import Added, OnError, ToAdd, added_here
from edje.index.built_with import check_reranker, new_facts
from edje.index.given_embeddings import given_embeddings
from edje.index.given_pictures import GivenPicture, absolute, given_pictures, read_path
from edje.index.hits import Hit
from edje.index.image_table import ID, KEY, PATH, READABLE, ImageTable, TableFacts
from edje.index.index_search import IndexSearch
from edje.index.index_stats import IndexStats, Problem, problems_of, stats_of
from edje.index.ray_engine import Engine, RayEngine
from edje.index.shards import with_shards
from edje.index.user_columns import UserColumns
from edje.inference.reranker import Reranker
from edje.tokens.lock import writer_lock

KEPT = timedelta(hours=1)  # versions that optimize leaves to readers


class ImageIndex:
    """An index over images, to be asked for the best images of a text.

    >>> reranker = Reranker.from_pretrained("photos")                    # doctest: +SKIP
    >>> index = ImageIndex.open("photos.edje", reranker)                 # doctest: +SKIP
    >>> index.add("~/Pictures")      # again: what is new or changed     # doctest: +SKIP
    >>> index.search("two dogs racing along a beach")[0].id              # doctest: +SKIP
    'beach/dogs.jpg'

    It lies in a folder as a table of LanceDB, a row per picture. One process writes at a time, a
    second one waits (or with wait=False is refused); any number reads, each the version that it
    has opened, until `refresh`. A kill loses at most the pictures in hand. Needs the extra
    `index`; the embeddings, in float32, are held in memory. For one thread at a time.
    """

    def __init__(self, folder: Path, reranker: Reranker, wait: bool = True):
        self.folder = folder
        self.reranker = reranker
        self.wait = wait
        self._table: ImageTable | None = None
        self._searching: IndexSearch | None = None
        self.refresh()

    @classmethod
    def open(cls, path: str | Path, reranker: Reranker, *, wait: bool = True) -> "ImageIndex":
        """An index by its folder. Where there is none, the first addition makes it.

        Raises:
            EdjeError: LanceDB is not installed, the index can't be read, or it was built with
                another reranker, which the message tells apart.
        """
        return cls(absolute(path), reranker, wait)

    @classmethod
    def from_embeddings(
        cls,
        path: str | Path,
        reranker: Reranker,
        embeddings: str | Path | np.ndarray,
        paths: Sequence[str | Path] | None = None,
        *,
        ids: Sequence[str] | None = None,
        wait: bool = True,
        on_error: OnError = "record",
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> "ImageIndex":
        """An index whose first stage are embeddings that you have, of whatever model.

        The pictures are read for their tokens. A search then takes the query's embedding by the
        same model, `query_embedding=`; what `score=sum` and `residual` read of a first stage is
        still the reranker's own. A call that was cut short is given again, and so are more
        pictures, with all of them.

        Args:
            path: the index's folder.
            reranker: what reranks.
            embeddings: a `.npy` file (nothing pickled is read) or an array of shape (pictures,
                width); or a `.parquet` with the columns `path` and `embedding`, perhaps `id`, and
                others for `where`.
            paths: the pictures' files, in the order of the embeddings.
            ids: in that order; by default the files' names.
            wait: as in `open`.
            on_error: as in `add`.
            batch_size: as in `add`.
            show_progress_bar: as in `add`.

        Raises:
            EdjeError: the embeddings can't be read or don't fit the pictures, the index has others,
                or as `open` and `add`.
        """
        given = given_embeddings(embeddings, paths, ids)
        index = cls.open(path, reranker, wait=wait)
        columns = UserColumns(given.columns)

        def values(image_id: str) -> dict[str, Any]:
            return {**columns.of(image_id), **given.of(image_id)}

        with index._writing(new_facts(reranker, given.width)) as after:
            given.check(after)
            index._added(
                after, given.pictures, columns, values, on_error, batch_size, show_progress_bar
            )
        return index

    def __len__(self) -> int:
        """Number of pictures that can be found."""
        return 0 if self._table is None else self._table.count(READABLE)

    def __repr__(self) -> str:
        return f"ImageIndex({str(self.folder)!r}, {len(self):,} pictures)"

    def ids(self) -> list[str]:
        """Ids of the pictures that can be found, sorted."""
        if self._table is None:
            return []
        batches = self._table.scan([ID], READABLE)
        return sorted(name for batch in batches for name in batch.column(ID).to_pylist())

    def add(
        self,
        source: Any,
        *,
        prefix: str | None = None,
        on_error: OnError = "record",
        columns: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        engine: Engine = "local",
    ) -> Added:
        """Add what is new or changed of a source; the rest stays as it is.

        A file is known by size and time of modification, then by its content. A moved one keeps
        its tokens under its new id, and the id of a file that is gone is free for another. Files
        that can't be read are listed by `problems()` and not
        tried again until they change.

        Args:
            source: a folder (with those in it; hidden files and linked folders are left out), a
                path (also with `*`), a list of paths, a mapping of ids to pictures, or a
                `datasets.Dataset` with a column `image`. A file's id is its path in the folder, or
                for a path by itself its name, in NFC; a byte that is no Unicode is written \\xff.
                The path of a `.tar`, as WebDataset has them, or of a `.parquet` with a column
                `image` stands for the pictures in it, as if it were a folder: their ids are
                `<its name without the ending>/<path in the tar>`, or `…/<id>` by a column that is
                named so (image_id, id, filename, file_name), or `…/<row number>`; their `path` is
                that of the tar.
            prefix: put before the ids, with a slash.
            on_error: "raise" ends the addition at the first picture that can't be read.
            columns: columns of yours, for `where`: by name one value, or a mapping of ids to
                values, for the pictures that this call adds or changes.
            batch_size: pictures through the tower at once.
            show_progress_bar: by default where there is more than one batch.
            engine: "local", this process; or "ray", the processes of a cluster of Ray, or a
                `RayEngine` with its address and sizes. The same rows come out.

        Raises:
            EdjeError: there is no such source, an id is another picture's, the index can't be
                written, with wait=False another process is writing it, or workers of Ray failed;
                what was finished is kept.
        """
        self._refuse_given("add")
        given = given_pictures(source, prefix)
        chosen = UserColumns(columns)
        with self._writing(new_facts(self.reranker)) as after:
            return self._added(
                after, given, chosen, chosen.of, on_error, batch_size, show_progress_bar, engine
            )

    def sync(
        self,
        folder: str | Path,
        *,
        prefix: str | None = None,
        on_error: OnError = "record",
        columns: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> Added:
        """Add a folder, and remove what came from it and is gone.

        Raises:
            EdjeError: as `add`; or the folder isn't one, or has no picture left while the index
                has some of it: a disk that isn't mounted looks like this.
        """
        self._refuse_given("sync")
        root = absolute(folder)
        if not root.is_dir():
            raise EdjeError(f"sync: {folder} is not a folder. Nothing was removed.")
        given = given_pictures(root, prefix)
        chosen = UserColumns(columns)
        with self._writing(new_facts(self.reranker)) as after:
            gone = self._gone(root, after)
            if gone and not given:
                raise EdjeError(
                    f"sync: {folder} has no pictures, the index has {len(gone):,} of it. If they "
                    "are to go, index.remove(ids); if its disk isn't there, mount it."
                )
            added = self._added(
                after, given, chosen, chosen.of, on_error, batch_size, show_progress_bar
            )
            after.refresh()
            gone = self._gone(root, after)
            after.delete(gone)
        return replace(added, removed=len(gone))

    def remove(self, ids: Sequence[str]) -> int:
        """Remove pictures by their ids; returns how many.

        Raises:
            EdjeError: an id isn't in the index (then nothing is removed), or it can't be written.
        """
        if isinstance(ids, str):
            raise EdjeError(f"remove: got the text {ids!r}, expected a list of ids.")
        self._existing("remove from")
        with self._writing(None) as after:
            keys = self._keys(ids)
            after.delete(keys)
        return len(keys)

    def problems(self) -> list[Problem]:
        """Files that couldn't be read, sorted by id."""
        return [] if self._table is None else problems_of(self._table)

    def search(
        self,
        query: str,
        k: int = 100,
        top: int = 10,
        where: str | None = None,
        min_probability: float | None = None,
        group_duplicates: bool | float = False,
        *,
        query_embedding: Any = None,
    ) -> list[Hit]:
        """The best pictures of a text, best first.

        Args:
            query: the text.
            k: so many of the first stage are reranked.
            top: so many hits at most.
            where: a filter of Lance's over the columns, `"width > 1000 and album = 'Rome'"`;
                only pictures that it lets through are searched.
            min_probability: leave out hits whose probability is less.
            group_duplicates: one hit for near duplicates, which are then named in it: where the
                cosine of two pictures' tokens is at least 0.8, or the number given.
            query_embedding: of an index of your own embeddings, the query's.

        Raises:
            EdjeError: there is no index yet, `where` is no filter, a probability is asked for and
                the reranker has no calibration, or the index can't be read.
        """
        return self._search.search(
            query, k, top, where, min_probability, group_duplicates, query_embedding
        )

    def rerank(
        self,
        query: str,
        ids: Sequence[str],
        first_stage: Sequence[float] | None = None,
        *,
        min_probability: float | None = None,
    ) -> list[Hit]:
        """Pictures that another search has found, best first; no picture is read.

        `first_stage` are that search's scores of the ids, in their order. Where they are cosine
        similarities of the reranker's own first stage they save computing them; a reranker that
        sums both stages, or was trained with the first, is made for no others.

        Raises:
            EdjeError: an id isn't in the index or comes twice, scores and ids differ in number, or
                as `search`.
        """
        return self._search.rerank(query, ids, first_stage, min_probability)

    def stats(self) -> IndexStats:
        """Numbers of the version that is read, and the bytes of all versions on the disk.

        Raises:
            EdjeError: there is no index yet, or it can't be read.
        """
        return stats_of(self._existing("measure"))

    def optimize(self, keep: timedelta = KEPT) -> None:
        """Put the pieces of many additions together, and free what is no more used.

        Versions younger than `keep` stay for the readers that have them open.

        Raises:
            EdjeError: there is no index yet, or it can't be written.
        """
        self._existing("optimize")
        with self._writing(None) as after:
            after.optimize(keep)

    def refresh(self) -> None:
        """Read the present version from here on, with what other processes have written.

        Raises:
            EdjeError: it can't be read.
        """
        before = None if self._table is None else self._table.version
        if self._table is None:
            if (table := ImageTable.open(self.folder)) is None:
                return
            check_reranker(table, self.reranker)
            self._table = table
        else:
            self._table.refresh()
        if self._table.version != before:
            self._searching = None

    @property
    def _search(self) -> IndexSearch:
        """The search of the version that is read."""
        if self._searching is None:
            self._searching = IndexSearch(self._existing("search"), self.reranker)
        return self._searching

    def _existing(self, doing: str) -> ImageTable:
        if self._table is None:
            raise EdjeError(
                f"there is no index to {doing} at {self.folder} yet. index.add(<folder>) makes it, "
                f"or edje index <folder> --into {self.folder}; or check the spelling."
            )
        return self._table

    def _refuse_given(self, caller: str) -> None:
        if self._table is not None and self._table.facts.given_width:
            raise EdjeError(
                f"{caller}: the index {self.folder} is of your own embeddings. Give those of new "
                "pictures with the others: ImageIndex.from_embeddings."
            )

    def _keys(self, ids: Sequence[str]) -> list[int]:
        found = self._existing("remove from").named(ids, [KEY])
        if missing := [one for one in ids if one not in found]:
            raise EdjeError(
                f"remove: {len(missing)} of {len(ids)} ids are not in the index, such as "
                f"{missing[0]!r}. Nothing was removed; index.ids() lists them."
            )
        return [row[KEY] for row in found.values()]

    def _gone(self, root: Path, table: ImageTable) -> list[int]:
        """Keys of the rows whose files were under a folder and aren't there any more."""
        lead = f"{root}/"
        return [
            row[KEY]
            for batch in table.scan([KEY, PATH])
            for row in batch.to_pylist()
            if (path := read_path(row[PATH])) is not None
            if path.startswith(lead) and not os.path.lexists(path)
        ]

    @contextmanager
    def _writing(self, facts: TableFacts | None) -> Iterator[ImageTable]:
        """The table to write into, in this process's hands; made by `facts` where it is missing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdjeError(f"can't make the index {self.folder}: {error}.") from error
        with writer_lock(self.folder, wait=self.wait, what="index"):
            if facts is not None and ImageTable.open(self.folder) is None:
                ImageTable.create(self.folder, facts)
            self.refresh()
            after = ImageTable.open(self.folder)
            assert after is not None and self._table is not None
            try:
                yield after
            finally:
                self.refresh()

    def _added(
        self,
        after: ImageTable,
        given: Sequence[GivenPicture],
        columns: UserColumns,
        values: Callable[[str], Mapping[str, Any]],
        on_error: OnError,
        batch_size: int,
        show_progress_bar: bool | None,
        engine: Engine = "local",
    ) -> Added:
        if missing := columns.missing(after.schema):
            after.add_columns(missing)
            self.refresh()
        files, shards = with_shards(given)
        work = ToAdd(
            before=self._existing("add to"),
            after=after,
            reranker=self.reranker,
            files=files,
            shards=shards,
            values=values,
            on_error=on_error,
            batch_size=batch_size,
        )
        if engine == "local":
            return added_here(work, show_progress_bar)
        from edje.index.ray_additions import added_on_ray  # imports Ray

        return added_on_ray(work, RayEngine() if engine == "ray" else engine, show_progress_bar)

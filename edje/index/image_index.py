"""The image index: search over a user's own pictures, first stage and reranker together."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_args

from edje.errors import EdjeError
from edje.index.additions import Added, OnError, ToAdd, added_here
from edje.index.answers import CANDIDATES, Answer, Missing, Question
from edje.index.built_with import check_reranker, new_facts
from edje.index.given_embeddings import given_embeddings
from edje.index.given_pictures import (
    GivenPicture,
    absolute,
    files_under,
    given_pictures,
    is_gone,
    mode_of,
    read_path,
)
from edje.index.hits import Hit
from edje.index.image_table import (
    ID,
    KEY,
    PATH,
    READABLE,
    ImageTable,
    Place,
    TableFacts,
    place_of,
)
from edje.index.index_search import IndexSearch, check_where, list_of_ids, not_there
from edje.index.index_stats import IndexStats, Problem, problems_of, stats_of
from edje.index.ray_engine import Engine, RayEngine
from edje.index.shards import with_shards
from edje.index.user_columns import UserColumns
from edje.inference.encoded_images import EncodedImages
from edje.inference.given_numbers import Numbers
from edje.inference.reranker import Reranker
from edje.ranges import check_count
from edje.tokens.lock import writer_lock

KEPT = timedelta(hours=1)  # age up to which optimize keeps versions for readers
EXACT_UP_TO = 200_000  # pictures


class ImageIndex:
    """An index over images, which finds the best images for a text.

    >>> reranker = Reranker.from_pretrained("photos")                    # doctest: +SKIP
    >>> index = ImageIndex.open("photos.edje", reranker)                 # doctest: +SKIP
    >>> index.add("~/Pictures")      # again: what is new or changed     # doctest: +SKIP
    >>> index.search("two dogs racing along a beach")[0].id              # doctest: +SKIP
    'beach/dogs.jpg'

    It is a table of LanceDB in a folder, with a row per picture. One process writes at a time; a
    second one waits (or with wait=False is refused). Any number of processes read, each the
    version it opened, until `refresh`. A kill loses at most the last 20 seconds' pictures. Needs
    the extra `index`. An object is for one thread at a time.

    Up to 200,000 pictures (`exact_up_to`), the first stage compares a query with all embeddings,
    which are held in memory in float32. For more pictures, additions and `optimize` make an index
    of the embeddings on disk, with which a search finds nearly the same pictures; `stats`
    measures how nearly.
    """

    def __init__(
        self,
        folder: Place,
        reranker: Reranker,
        wait: bool = True,
        exact_up_to: int = EXACT_UP_TO,
    ):
        check_count("exact_up_to", exact_up_to, 0)
        if not isinstance(reranker, Reranker):
            raise EdjeError(
                f"ImageIndex: got {reranker!r} as reranker, expected a Reranker, such as "
                'Reranker.from_pretrained("photos").'
            )
        self.folder = folder
        self.reranker = reranker
        self.wait = wait
        self.exact_up_to = exact_up_to
        self._table: ImageTable | None = None
        self._searching: IndexSearch | None = None
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent and copied as what opens it: its table is read again there."""
        return type(self), (self.folder, self.reranker, self.wait, self.exact_up_to)

    @classmethod
    def open(
        cls,
        path: str | Path,
        reranker: Reranker,
        *,
        wait: bool = True,
        exact_up_to: int = EXACT_UP_TO,
    ) -> "ImageIndex":
        """An index by its folder. If there is none, the first addition creates it.

        An index copied to object storage is read there by its URL (`s3://`, `gs://`, `az://`).

        Raises:
            EdjeError: LanceDB is not installed, the index can't be read, or it was built with
                another reranker; the message lists the differences.
        """
        return cls(place_of(path), reranker, wait, exact_up_to)

    @classmethod
    def from_embeddings(
        cls,
        path: str | Path,
        reranker: Reranker,
        embeddings: str | Path | Numbers,
        paths: Sequence[str | Path] | None = None,
        *,
        ids: Sequence[str] | None = None,
        wait: bool = True,
        exact_up_to: int = EXACT_UP_TO,
        on_error: OnError = "record",
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> "ImageIndex":
        """An index whose first stage is your own embeddings, of any model.

        The pictures are read for their tokens. A search then takes the query's embedding by the
        same model, `query_embedding=`. `score=sum` and `residual` still read the reranker's own
        first stage. To continue an interrupted call, repeat it. To add pictures, repeat it with
        all pictures, old and new.

        Args:
            path: the index's folder.
            reranker: what reranks.
            embeddings: a `.npy` file (nothing pickled is read), an array, tensor or list of shape
                (pictures, width), or a `.parquet` with the columns `path` and `embedding`,
                optionally `id`, and others for `where`.
            paths: the pictures' files, in the order of the embeddings.
            ids: in the same order; by default the files' names.
            wait: as in `open`.
            exact_up_to: as in `open`.
            on_error: as in `add`.
            batch_size: as in `add`.
            show_progress_bar: as in `add`.

        Raises:
            EdjeError: the embeddings can't be read or don't fit the pictures, the index has other
                ones, or as `open` and `add`.
        """
        _check_choices(on_error, batch_size)
        given = given_embeddings(embeddings, paths, ids)
        if shards := with_shards(given.pictures)[1]:
            raise EdjeError(
                f"from_embeddings: {shards[0].path} holds many pictures. Give files of one each."
            )
        index = cls.open(path, reranker, wait=wait, exact_up_to=exact_up_to)
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

    @property
    def fragments(self) -> int:
        """Number of separate pieces written by additions."""
        return 0 if self._table is None else self._table.fragments

    @property
    def has_given_embeddings(self) -> bool:
        """Whether its first stage is the user's own embeddings, so that a search needs one."""
        return self._table is not None and self._table.facts.given_width > 0

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
        """Add what is new or changed in a source; the rest is left unchanged.

        A file is recognised by size and modification time, then by its content. A moved file
        keeps its tokens under its new id; the id of a file that is gone can be used for another.
        Files that can't be read are listed by `problems()`, and not tried again until they change,
        unless the cause lay outside the file: a missing package, the disk, or memory. Then a
        picture that the index has stays as it is there.

        Args:
            source: a folder (with its subfolders; hidden files and linked folders are left out), a
                path (also with `*`), a list of paths, a mapping of ids to pictures, or a
                `datasets.Dataset` with a column `image`. A file's id is its path in the folder, or
                for a single path its name, in NFC; a byte that isn't valid Unicode is written
                \\xff. The path of a `.tar` in WebDataset's form, or of a `.parquet` with a column
                `image`, stands for the pictures in it, as if it were a folder. Their ids are
                `<its name without extension>/<path in the tar>`, or `…/<id>` by a column of ids
                (image_id, id, filename, file_name), or `…/<row number>`; their `path` is the
                tar's.
            prefix: put before the ids, with a slash.
            on_error: "raise" ends the addition at the first picture that can't be read.
            columns: your own columns, for `where` and `Hit.columns`: for each name one value, or
                a mapping of ids to values, for the pictures that this call adds or changes;
                `set_columns` gives them to others.
            batch_size: pictures through the tower at once.
            show_progress_bar: by default if there is more than one batch.
            engine: "local", this process; "ray", the processes of a Ray cluster; or a
                `RayEngine` with its address and sizes. All give the same rows.

        Raises:
            EdjeError: there is no such source, an id belongs to another picture, the index can't
                be written, another process is writing it (with wait=False), or Ray workers
                failed. What was finished is kept.
        """
        self._refuse_given("add")
        _check_choices(on_error, batch_size)
        if not isinstance(engine, RayEngine) and engine not in ("local", "ray"):
            raise EdjeError(f"engine={engine!r}: expected local, ray, or a RayEngine.")
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
        """Add a folder, and remove pictures that came from it and are gone.

        A picture is gone if its folder no longer has it; one that can't be read stays.

        Raises:
            EdjeError: as `add`; or the folder isn't one, or has no picture left while the index
                has some of it, which looks like a disk that isn't mounted. Nothing is removed
                then, also if the disk goes away during the call.
        """
        self._refuse_given("sync")
        _check_choices(on_error, batch_size)
        root = absolute(folder)
        if not stat.S_ISDIR(mode_of(root, folder)):
            raise EdjeError(f"sync: {folder} is not a folder. Nothing was removed.")
        given = given_pictures(root, prefix)
        chosen = UserColumns(columns)
        with self._writing(new_facts(self.reranker)) as after:
            self._gone(root, after)  # refuses a folder without pictures before the work
            added = self._added(
                after, given, chosen, chosen.of, on_error, batch_size, show_progress_bar
            )
            after.refresh()
            gone = self._gone(root, after)
            after.delete(gone)
        return replace(added, removed=len(gone))

    def remove(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Remove pictures by their ids; returns how many.

        With `missing_ok`, ids that are not in the index are passed over, so that a removal can be
        repeated.

        Raises:
            EdjeError: an id isn't in the index (nothing is removed then), or it can't be written.
        """
        ids = list_of_ids("remove", ids)
        self._existing("remove from")
        with self._writing(None) as after:
            keys = self._keys(ids, "remove", "removed", missing_ok)
            after.delete(keys)
        return len(keys)

    def set_columns(self, columns: Mapping[str, Any], where: str | None = None) -> int:
        """Give pictures that are in the index values of your own columns; returns how many.

        Other columns stay. Lance writes these rows anew, with their tokens; `optimize` frees the
        space of the former ones, once they are an hour old or as its `keep` says.

        Args:
            columns: for each name one value, or a mapping of ids to values; None clears one.
            where: only pictures that pass this filter, as in `search`.

        Raises:
            EdjeError: an id isn't in the index, a value doesn't fit its column, `where` is not a
                valid filter (nothing is changed then), or the index can't be written.
        """
        check_where(where)
        chosen = UserColumns(columns)
        ids = list({one for values in chosen.by_id.values() for one in values})
        self._existing("set columns of")
        with self._writing(None) as after:
            self._keys(ids, "set_columns", "changed")
            after.count(where)  # is refused before a column is added
            if missing := chosen.missing(after.schema):
                after.add_columns(missing)
            read = [KEY, ID, *chosen.given]
            are_all_by_id = len(chosen.by_id) == len(chosen.given)
            rows = [
                {**row, **values}
                for batch in (
                    after.among(ID, ids, read, where) if are_all_by_id else after.scan(read, where)
                )
                for row in batch.to_pylist()
                if (values := chosen.of(row.pop(ID)))
            ]
            after.change(rows)
        return len(rows)

    def problems(self) -> list[Problem]:
        """Files that couldn't be read, sorted by id."""
        return [] if self._table is None else problems_of(self._table)

    def search(
        self,
        query: str,
        k: int = CANDIDATES,
        top: int = 10,
        where: str | None = None,
        min_probability: float | None = None,
        group_duplicates: bool | float = False,
        *,
        query_embedding: Numbers | None = None,
    ) -> list[Hit]:
        """The best pictures for a text, best first.

        Args:
            query: the text.
            k: number of the first stage's candidates to rerank.
            top: largest number of hits.
            where: a filter of Lance's over the columns, `"width > 1000 and album = 'Rome'"`;
                only pictures that pass it are searched.
            min_probability: leaves out hits with a smaller probability.
            group_duplicates: one hit for near duplicates, which it then lists. Two pictures are
                near duplicates if the cosine of their tokens is at least 0.8, or this number,
                above 0 and at most 1.
            query_embedding: the query's embedding, for an index of your own embeddings; an array,
                a list, or a tensor of any device.

        Raises:
            EdjeError: there is no index yet, `where` is not a valid filter, a probability is
                requested but the reranker has no calibration, or the index can't be read.
        """
        return self.search_many(
            [query],
            k,
            top,
            where,
            min_probability,
            group_duplicates,
            query_embeddings=[query_embedding],
        )[0]

    def search_many(
        self,
        queries: Sequence[str],
        k: int = CANDIDATES,
        top: int = 10,
        where: str | None = None,
        min_probability: float | None = None,
        group_duplicates: bool | float = False,
        *,
        query_embeddings: Numbers | None = None,
    ) -> list[list[Hit]]:
        """The best pictures for each of several texts, which go through each stage together.

        The hits are those of `search` for each text, up to the rounding of scores. The candidates
        of all texts are in memory at once.

        Raises:
            EdjeError: as `search`.
        """
        if isinstance(queries, str):
            raise EdjeError(f"search_many: got the text {queries!r}, expected a list of texts.")
        queries = list(queries)
        given = [None] * len(queries) if query_embeddings is None else query_embeddings
        if len(given) != len(queries):
            raise EdjeError(
                f"search_many: got {len(queries)} texts and {len(given)} embeddings, expected one "
                "for each."
            )
        questions = [
            Question(query, k, where, embedding)
            for query, embedding in zip(queries, given, strict=True)
        ]
        return [
            answer.best(top, group_duplicates, min_probability)
            for answer in self.answers(questions)
        ]

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Both stages of several searches, which go through each stage together, with times.

        Raises:
            EdjeError: as `search` and `rerank`; no question is answered then.
        """
        return self._search.answers(questions)

    def encoded(self, ids: Sequence[str]) -> EncodedImages:
        """Embeddings and tokens of pictures by their ids, for ranking them with others.

        Raises:
            EdjeError: an id isn't in the index, or as `search`.
        """
        return self._search.encoded(list_of_ids("encoded", ids))

    def rerank(
        self,
        query: str,
        ids: Sequence[str],
        first_stage: Numbers | None = None,
        *,
        min_probability: float | None = None,
        missing: Missing = "error",
    ) -> list[Hit]:
        """Pictures found by another search, best first; no picture is read.

        `first_stage` is that search's scores, in the order of the ids. If they are cosine
        similarities of the reranker's own first stage, they save computing these. Other scores
        don't suit a reranker that sums both stages or was trained with the first stage. With
        `missing="skip"`, ids that are not in the index are left out; the others' ranks are those
        among themselves.

        Raises:
            EdjeError: an id isn't in the index or occurs twice, the numbers of scores and ids
                differ, or as `search`.
        """
        question = Question(
            query, ids=list_of_ids("rerank", ids), first_stage=first_stage, missing=missing
        )
        return self.answers([question])[0].best(min_probability=min_probability)

    def stats(self, queries: Sequence[str] | None = None) -> IndexStats:
        """Figures of the current version, and the bytes of all versions on disk.

        For an approximate first stage, recall is measured with your texts, or by default with the
        embeddings of 100 pictures; this reads all embeddings.

        Raises:
            EdjeError: there is no index yet, it can't be read, or `queries` is no list of texts.
        """
        table = self._existing("measure")
        first_stage = "exact" if self._search.approximate is None else "approximate"
        return stats_of(table, first_stage, self._search.recall(CANDIDATES, queries))

    def optimize(self, keep: timedelta = KEPT) -> None:
        """Merge the pieces of many additions, and free space that is no longer used.

        Also updates the indices (of embeddings, ids, paths and contents), if there are many
        pictures.

        Versions younger than `keep` stay for readers that have them open.

        Raises:
            EdjeError: there is no index yet, or it can't be written.
        """
        if not isinstance(keep, timedelta) or keep < timedelta(0):
            raise EdjeError(
                f"optimize: keep={keep!r}, expected a datetime.timedelta, such as "
                "timedelta(hours=1)."
            )
        self._existing("optimize")
        with self._writing(None) as after:
            after.optimize(keep)
            self._index_embeddings(after)

    def refresh(self) -> None:
        """Switch to the present version, with what other processes have written.

        Raises:
            EdjeError: it can't be read, or it was made anew with another reranker.
        """
        table = self._table
        made, version = (None, 0) if table is None else (table.facts.made, table.version)
        if table is None:
            if (table := ImageTable.open(self.folder)) is None:
                return
        else:
            table.refresh()
        if table.facts.made != made:
            self._table = self._searching = None
            check_reranker(table, self.reranker)
            self._table = table
        if table.version != version:
            self._searching = None

    @property
    def _search(self) -> IndexSearch:
        """The search of the current version."""
        if self._searching is None:
            table = self._existing("search")
            self._searching = IndexSearch(table, self.reranker, self.exact_up_to)
        return self._searching

    def _existing(self, doing: str) -> ImageTable:
        if self._table is None and isinstance(self.folder, str):
            raise EdjeError(
                f"there is no index to {doing} at {self.folder}. Check the spelling, or copy the "
                "folder of an index there."
            )
        if self._table is None:
            raise EdjeError(
                f"there is no index to {doing} at {self.folder} yet. Make it with "
                f"index.add(<folder>) or edje index <folder> --into {self.folder}; or check the "
                "spelling."
            )
        return self._table

    def _refuse_given(self, caller: str) -> None:
        if self.has_given_embeddings:
            raise EdjeError(
                f"{caller}: the index {self.folder} has your own embeddings. Give those of new "
                "pictures together with the others: ImageIndex.from_embeddings."
            )

    def _keys(
        self, ids: Sequence[str], caller: str, done: str, missing_ok: bool = False
    ) -> list[int]:
        found = self._existing(caller).named(ids, [KEY])
        absent = [one for one in ids if one not in found]
        if absent and not missing_ok:
            raise EdjeError(f"{not_there(caller, absent, len(ids))}. Nothing was {done}.")
        return [row[KEY] for row in found.values()]

    def _gone(self, root: Path, table: ImageTable) -> list[int]:
        """Keys of the rows whose files were under a folder and no longer exist.

        Raises:
            EdjeError: there are some, but the folder has no pictures or can't be listed.
        """
        true_folder = cache(os.path.realpath)
        by_name, by_place = (f"{str(one).rstrip('/')}/" for one in (root, root.resolve()))
        gone = [
            (row[KEY], path)
            for batch in table.scan([KEY, PATH])
            for row in batch.to_pylist()
            if (path := read_path(row[PATH])) is not None
            if path.startswith(by_name)
            or f"{true_folder(path.rpartition('/')[0])}/".startswith(by_place)
            if is_gone(path)
        ]
        if gone and next(files_under(root), None) is None:
            raise EdjeError(
                f"sync: {root} has no pictures, but the index has {len(gone):,} of it. To "
                "remove them, use index.remove(ids); if its disk is missing, mount it."
            )
        return [key for key, path in gone if is_gone(path)]  # else the disk was away for a moment

    @contextmanager
    def _writing(self, facts: TableFacts | None) -> Iterator[ImageTable]:
        """The table, locked for writing by this process; created from `facts` if missing."""
        if isinstance(self.folder, str):
            raise EdjeError(
                f"the index {self.folder} is at a URL, where it can only be read. Write it in a "
                "folder, and copy that there."
            )
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
                after.index_look_ups()
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
        files, shards = with_shards(given)
        if not shards:
            columns.warn_of_other_ids([one.id for one in files])
        if missing := columns.missing(after.schema):
            after.add_columns(missing)
            self.refresh()
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
            added = added_here(work, show_progress_bar)
        else:
            from edje.index.ray_additions import added_on_ray  # imports Ray

            cluster = RayEngine() if engine == "ray" else engine
            added = added_on_ray(work, cluster, show_progress_bar)
        self._index_embeddings(after)
        return added

    def _index_embeddings(self, table: ImageTable) -> None:
        """Make the index of a large table's embeddings, if there is none."""
        column = table.first_stage_column
        if not table.has_index(column) and table.count(READABLE) > self.exact_up_to:
            table.make_index(column)


def _check_choices(on_error: str, batch_size: int) -> None:
    check_count("batch_size", batch_size, 1)
    if on_error not in get_args(OnError):
        raise EdjeError(f"on_error={on_error!r}: expected record or raise.")

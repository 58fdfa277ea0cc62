"""Adding to an index on Ray Data: workers encode units of pictures, this process commits them."""

import pickle
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edje.errors import EdjeError
from edje.index.additions import SECONDS, Added, ToAdd
from edje.index.given_pictures import GivenPicture
from edje.index.known_pictures import KnownPictures
from edje.index.lance_library import TO_WRITE, lance, pylance
from edje.index.ray_engine import RayEngine, connected, data_library, places_with_gpu
from edje.index.ray_units import OUTCOME, UNIT, Assignment, Outcome, Unit, Worker
from edje.inference.run_choices import configuration_of

KEYS_OF_A_SHARD = 2**32  # reserved for it, as its number of pictures isn't known before opening
BEGUN = "begun"  # folder of an index in which workers note the units they begin
TRIES = 4  # of a unit whose workers die


def added_on_ray(work: ToAdd, engine: RayEngine, show_progress_bar: bool | None = None) -> Added:
    """Add with a cluster's workers; pictures that may have moved are then added here.

    Finished work is committed at least every 20 seconds, in whole units. If a worker dies, its
    unit is done again by another one.

    Raises:
        EdjeError: as `added_here`; Ray isn't reachable; or a unit's workers died repeatedly, in
            which case the others are finished first.
    """
    pylance()
    if not work.reranker.name:
        raise EdjeError(
            "engine=ray: this reranker has no name or path that workers could load. Save it "
            "(reranker.save_pretrained) and load it from there."
        )
    if "backbone" not in configuration_of(work.reranker.checkpoint):
        raise EdjeError(
            "engine=ray: this reranker doesn't say how its backbone is built, as its workers must "
            'do. Add with engine="local".'
        )
    known = work.known()
    to_read = known.to_be_read(work.files)
    units = list(units_of(work, to_read, known, engine))
    counts = Counter(unchanged=len(work.files) - len(to_read))
    written = Commits(work)
    total = None if work.shards else len(to_read)
    hidden = not (len(units) > 1 if show_progress_bar is None else show_progress_bar)
    with tqdm(total=total, desc="add", unit="image", disable=hidden) as bar:
        try:
            for outcome in outcomes(work, units, known, engine) if units else ():
                counts.update(outcome.counts)
                written.take(outcome)
                bar.update(sum(outcome.counts.values()))
                if outcome.error is not None:
                    raise EdjeError(outcome.error)
        finally:
            written.commit()
    if lost := [str(unit) for unit in units if unit.number in written.lost]:
        raise EdjeError(
            f"{len(lost)} of {len(units)} parts weren't added, as their workers died in each of "
            f"{TRIES} tries: {'; '.join(lost[:3])}{' …' if len(lost) > 3 else ''}. The rest is "
            "kept. A picture may crash its decoder, or memory may be short: ray.workers=<fewer>."
        )
    if written.left:
        moved = work.addition(written.left, known, units[-1].end)
        moved.write_into(work.after, show_progress_bar, "moved")
        counts.update(moved.counts)
    return Added(**counts)


def units_of(
    work: ToAdd, to_read: list[GivenPicture], known: KnownPictures, engine: RayEngine
) -> Iterator[Unit]:
    """Files in whole batches, then the shards, each with its keys."""
    size = max(1, engine.unit // work.batch_size) * work.batch_size
    key, number = known.next_key, 0
    for first in range(0, len(to_read), size):
        given = to_read[first : first + size]
        rows = [known.by_id[one.id] for one in given if one.id in known.by_id]
        yield Unit(number, given, rows, key, key + len(given))
        key, number = key + len(given), number + 1
    for shard in work.shards:
        yield Unit(number, shard, known.under(shard.lead), key, key + KEYS_OF_A_SHARD)
        key, number = key + KEYS_OF_A_SHARD, number + 1


def outcomes(
    work: ToAdd, units: list[Unit], known: KnownPictures, engine: RayEngine
) -> Iterator[Outcome]:
    """The outcomes of units as they finish; nothing for a unit whose workers died.

    Raises:
        EdjeError: Ray isn't installed or reachable, or failed.
    """
    folder = Path(work.before.folder)  # never a URL: those can only be read
    adapter = work.reranker.model.adapter
    assignment = Assignment(
        folder=folder,
        version=work.before.version,
        reranker=work.reranker.name,
        num_tokens=int(adapter.num_tokens) if adapter.budgets else None,
        values=work.values,
        on_error=work.on_error,
        batch_size=work.batch_size,
        gone=known.gone(),
        begun=folder / BEGUN,
        most_tries=TRIES,
    )
    with lance(work.before.folder, TO_WRITE):
        shutil.rmtree(assignment.begun, ignore_errors=True)
        assignment.begun.mkdir()
    with connected(engine) as ray, data_library(ray) as data:
        places, cores = places_with_gpu(ray.nodes())
        all_cores = int(ray.cluster_resources().get("CPU", 1))
        workers = min(engine.workers or places or all_cores, len(units))
        items = [{UNIT: pickle.dumps(unit)} for unit in units]
        try:
            made = data.from_items(items, override_num_blocks=len(items)).map_batches(
                Worker,
                fn_constructor_args=[pickle.dumps(assignment)],
                batch_size=1,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
                num_gpus=1 if places else None,
                num_cpus=cores if places else 1,
            )
            for batch in made.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield from map(pickle.loads, batch.column(OUTCOME).to_pylist())
        except ray.exceptions.RayError as error:
            said: Any = str(error).strip().split("\n")
            raise EdjeError(
                f"engine=ray: {said[-1]}. What was finished is kept; run the command again."
            ) from error
        finally:
            shutil.rmtree(assignment.begun, ignore_errors=True)


class Commits:
    """Puts the results of finished units into the table; each commit makes a version of it."""

    def __init__(self, work: ToAdd):
        self.after = work.after
        self.taken: set[int] = set()
        self.lost: set[int] = set()
        self.left: list[GivenPicture] = []
        self._waiting: list[Outcome] = []
        self._begun = time.monotonic()

    def take(self, outcome: Outcome) -> None:
        """Take a unit's outcome, and commit when it is time to.

        Raises:
            EdjeError: the table can't be written.
        """
        if outcome.number in self.taken:
            return
        self.taken.add(outcome.number)
        self.lost |= {outcome.number} if outcome.is_lost else set()
        self.left += outcome.left
        self._waiting.append(outcome)
        if time.monotonic() - self._begun > SECONDS:
            self.commit()

    def commit(self) -> None:
        """Put what is waiting into the table.

        Raises:
            EdjeError: it can't be written.
        """
        waiting, self._waiting, self._begun = self._waiting, [], time.monotonic()
        self.after.append_pieces([piece for one in waiting for piece in one.pieces])
        for one in waiting:
            if one.changed is not None:
                self.after.merge(one.changed)
            self.after.delete(one.mended)

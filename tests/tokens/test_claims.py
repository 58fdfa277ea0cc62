"""Claims about several processes that fill one store."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edje.errors import EdjeError
from edje.tokens.claims import CLAIMS_FILE, Claims
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import is_being_written, writer_lock
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import ShardWriter, make_plan
from tests.tiny.stores import IDS, PLAN, contents, features_of, make_store, run_script, tokens_of


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[UnfinishedStore]:
    """A store that this process leads until the end of the test."""
    folder = tmp_path / "store"
    folder.mkdir()
    with writer_lock(folder):
        unfinished = UnfinishedStore(folder, PLAN, IDS)
        unfinished.begin()
        yield unfinished


def another_process_holds(shard: int, unfinished: UnfinishedStore) -> subprocess.Popen[str]:
    process = run_script("hold", str(unfinished.folder), str(shard))
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def write_the_rest(unfinished: UnfinishedStore) -> list[int]:
    """Shards that this process gets to write."""
    with ShardWriter(unfinished) as writer:
        written = []
        for rows in writer.batches(3):
            writer.put(rows, tokens_of(rows), features_of(rows))
            written.append(rows.start // PLAN.shard_rows)
    return sorted(set(written))


def test_a_shard_that_another_process_writes_is_left_to_it_until_it_dies(
    begun: UnfinishedStore, tmp_path: Path
) -> None:
    other = another_process_holds(2, begun)
    try:
        assert write_the_rest(begun) == [0, 1, 3, 4, 5, 6]
        assert begun.pending() == [2]
    finally:
        other.kill()
        other.communicate()
    assert write_the_rest(begun) == [2]
    begun.finish()
    assert contents(begun.folder) == contents(make_store(tmp_path / "alone"))


def test_a_new_leader_waits_for_processes_that_the_last_one_left(
    begun: UnfinishedStore, caplog: pytest.LogCaptureFixture
) -> None:
    leftover = begun.folder / "shard-00002.arrow.1.tmp"
    leftover.write_bytes(b"being written")
    other = another_process_holds(2, begun)
    try:
        ending = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -9 {other.pid}"])
        start = time.monotonic()
        with caplog.at_level("INFO"):
            begun.begin()
        assert time.monotonic() - start > 0.3 and "waiting for processes" in caplog.text
        assert not leftover.exists()
        ending.wait()
    finally:
        other.kill()
        other.communicate()


def test_nothing_is_claimed_where_nobody_leads(tmp_path: Path) -> None:
    with writer_lock(tmp_path):
        unfinished = UnfinishedStore(tmp_path, PLAN, IDS)
        unfinished.begin()
        assert is_being_written(tmp_path)
    assert not is_being_written(tmp_path)
    claims = Claims(tmp_path)
    assert not claims.take(0)
    claims.close()


def test_what_a_killed_writer_forked_neither_holds_its_lock_nor_is_taken_for_it(
    tmp_path: Path,
) -> None:
    other = run_script("leave_child", str(tmp_path))
    try:
        assert other.stdout is not None and other.stdout.readline() == "False True\n"
        assert is_being_written(tmp_path)  # by the child, which took the lock itself
    finally:
        other.communicate("done")
    assert other.returncode == -signal.SIGKILL


def test_a_finished_store_has_nothing_pending_and_no_claims_file(tmp_path: Path) -> None:
    folder = make_store(tmp_path)
    unfinished = UnfinishedStore(folder, PLAN, IDS)
    assert unfinished.pending() == [] and not (folder / CLAIMS_FILE).exists()


def test_a_plan_of_other_tokens_is_not_joined(begun: UnfinishedStore) -> None:
    other = Fingerprint({**PLAN.fingerprint.fields, "backbone": "large"})
    plan = make_plan(other, IDS, PLAN.make_codec(), PLAN.feature_width, PLAN.shard_rows)
    with pytest.raises(EdjeError, match="backbone: store has tiny, run needs large"):
        UnfinishedStore(begun.folder, plan, IDS).pending()


@pytest.mark.parametrize(
    ("cell", "rows"), [((4, 6), 2048), ((64, 384), 1024), ((576, 768), 64), ((576, 1024), 64)]
)
def test_shards_are_of_at_most_80_megabytes(cell: tuple[int, int], rows: int) -> None:
    codec = make_codec("bf16", *cell)
    assert make_plan(PLAN.fingerprint, IDS, codec, 3).shard_rows == rows
    assert rows * codec.cell_bytes <= 80e6 < 2 * rows * codec.cell_bytes or rows == 2048

"""Claims about writing a store: the same bytes, nothing lost, nothing broken."""

import errno
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edje.errors import EdjeError
from edje.tokens.checksum import checksum_of
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.shard import ShardFile, open_shard, shard_features
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify
from tests.tiny.stores import (
    FINGERPRINT,
    IDS,
    NUM_IMAGES,
    contents,
    encode,
    features_of,
    make_store,
    run_script,
    tokens_of,
)

NUM_SHARDS = 7


def forbidden(rows: Sequence[int]) -> Any:
    raise AssertionError(f"rows {list(rows)} were encoded again")


def failing_from(first: int) -> Any:
    def encode_some(rows: Sequence[int]) -> Any:
        if rows[0] >= first:
            raise InterruptedError
        return encode(rows)

    return encode_some


def test_two_runs_write_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    first, second = (contents(make_store(tmp_path / name)) for name in ("a", "b"))
    assert first == second
    assert set(first) == {"store.json", *(f"shard-{k:05d}.arrow" for k in range(NUM_SHARDS))}


def test_batches_stay_within_shards_and_cover_all_rows_in_order(tmp_path: Path) -> None:
    batches: list[list[int]] = []

    def recording(rows: Sequence[int]) -> Any:
        batches.append(list(rows))
        return encode(rows)

    make_store(tmp_path, encode=recording)
    assert [row for batch in batches for row in batch] == list(range(NUM_IMAGES))
    assert all(batch[0] // 8 == batch[-1] // 8 and len(batch) <= 3 for batch in batches)


def test_progress_counts_every_image_once_kept_ones_too(tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(InterruptedError):
        make_store(tmp_path, encode=failing_from(20), progress=steps.append)
    assert sum(steps) < NUM_IMAGES
    steps.clear()
    make_store(tmp_path, progress=steps.append)
    assert (steps[0], sum(steps)) == (16, NUM_IMAGES)
    steps.clear()
    make_store(tmp_path, progress=steps.append, encode=forbidden)
    assert sum(steps) == NUM_IMAGES


def test_finished_shards_are_kept_and_the_rest_is_as_in_one_run(tmp_path: Path) -> None:
    def second_half(rows: Sequence[int]) -> Any:
        return forbidden(rows) if rows[0] < 16 else encode(rows)

    with pytest.raises(InterruptedError):
        make_store(tmp_path / "a", encode=failing_from(20))
    make_store(tmp_path / "a", encode=second_half)
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


@pytest.mark.parametrize(
    ("pause", "later", "kills"),
    [(0.005, 0.06, 3), pytest.param(0.02, 0.03, 20, marks=pytest.mark.kills)],
)
def test_a_store_written_through_kills_equals_one_written_in_peace(
    tmp_path: Path, pause: float, later: float, kills: int
) -> None:
    script = run_script("kill", str(tmp_path / "killed"), str(pause), str(later))
    output, _ = script.communicate(timeout=120)
    finished, redone, locks = zip(*(line.split() for line in output.splitlines()), strict=True)
    assert script.returncode == 0
    assert len(finished) >= kills
    assert set(redone) == {"0"}
    assert "True" in locks, "no writer died with the lock in hand"
    assert len(set(finished)) > 2, "the kills came at no different moments"
    make_store(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(make_store(tmp_path / "peace"))
    assert verify(tmp_path / "killed") == []


def test_a_kill_before_the_very_end_leaves_nothing_to_encode_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(old: Path, new: Path) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("edje.tokens.unfinished.rename", killed)
        with pytest.raises(EdjeError):
            make_store(tmp_path / "a")
    assert "store.json" not in contents(tmp_path / "a")
    make_store(tmp_path / "a", encode=forbidden)
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


def test_a_store_being_written_is_waited_for_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    other = run_script("write", str(folder))
    try:
        until = time.monotonic() + 60
        while not (folder / "plan.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(EdjeError, match=rf"is being written by process {other.pid} on"):
            make_store(folder, wait=False)
        make_store(folder, encode=forbidden)
        assert (folder / "store.json").exists()
    finally:
        other.communicate(timeout=60)
    assert contents(folder) == contents(make_store(tmp_path / "alone"))


def test_one_process_does_not_write_one_store_twice_at_a_time(tmp_path: Path) -> None:
    def nested(rows: Sequence[int]) -> Any:
        make_store(tmp_path)

    with pytest.raises(EdjeError, match="already writing"):
        make_store(tmp_path, encode=nested)
    make_store(tmp_path)


def test_a_full_disk_is_named_and_leaves_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        make_store(tmp_path / "a", encode=failing_from(20))
    before = contents(tmp_path / "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(EdjeError, match=r"can't write to .* Free some space, then run"):
            make_store(tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path / "a") == before
    make_store(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


def test_a_disk_that_is_full_at_a_shards_end_is_named_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("edje.tokens.shard.ShardFile.finish", full)
        with pytest.raises(EdjeError, match=r"can't write to .* Free some space, then run"):
            make_store(tmp_path / "a")
    assert not list((tmp_path / "a").glob("shard-*"))
    make_store(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


@pytest.mark.parametrize("block", [64, 1800, 2 << 20])  # bytes written at once
@pytest.mark.parametrize("parts", [[50], [1] * 50, [7, 3, 40]])
def test_a_shard_has_the_same_bytes_however_its_cells_come(
    tmp_path: Path, parts: list[int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edje.tokens.shard._BLOCK", block)
    cells = np.arange(50 * 36, dtype=np.uint8).reshape(50, 36)
    features = features_of(range(50)).numpy()
    for name, some in (("a", parts), ("b", [25, 25])):
        shard = ShardFile(tmp_path / name, IDS, 36, 3)
        for part in np.split(cells, np.cumsum(some)[:-1]):
            shard.append(part)
        noted = shard.finish(features)
        assert noted.checksum == checksum_of(tmp_path / name)
        assert (noted.rows, noted.bytes) == (50, (tmp_path / name).stat().st_size)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    batch, cells_at = open_shard(tmp_path / "a")
    assert (batch.num_rows, cells_at) == (50, noted.cells_at) and cells_at % 4096 == 0
    assert batch.column("tokens").to_pylist() == [cell.tobytes() for cell in cells]
    assert batch.column("image_id").to_pylist() == IDS
    assert np.array_equal(shard_features(batch), features)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named_and_a_complete_store_in_it_is_used(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "store")
    for path in (folder, tmp_path):
        path.chmod(0o555)
    try:
        make_store(folder, encode=forbidden)
        with pytest.raises(EdjeError, match=r"can't write to .* Make the folder writable"):
            make_store(tmp_path / "other")
    finally:
        for path in (folder, tmp_path):
            path.chmod(0o755)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="/sys is Linux's")
def test_a_place_where_not_even_root_may_write_is_named() -> None:
    with pytest.raises(EdjeError, match=r"can't write to /sys/kernel/store.* writable or choose"):
        make_store(Path("/sys/kernel/store"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdjeError, match=r"can't write to .*file/store"):
        make_store(tmp_path / "file" / "store")


def test_another_store_in_the_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    before = contents(make_store(tmp_path))
    other = Fingerprint({**FINGERPRINT.fields, "backbone": "large"})
    with pytest.raises(EdjeError, match="backbone: store has tiny, run needs large"):
        make_store(tmp_path, fingerprint=other)
    with pytest.raises(EdjeError, match="num_images: store has 50, run needs 49"):
        make_store(tmp_path, image_ids=IDS[1:])
    assert contents(tmp_path) == before


def test_another_unfinished_store_in_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        make_store(tmp_path, encode=failing_from(20))
    with pytest.raises(EdjeError, match="backbone: store has tiny"):
        make_store(tmp_path, fingerprint=Fingerprint({"backbone": "large"}))


def test_an_unfinished_store_of_other_images_is_begun_again(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        make_store(tmp_path / "a", encode=failing_from(20))
    make_store(tmp_path / "a", image_ids=IDS[1:])
    fresh = make_store(tmp_path / "b", image_ids=IDS[1:])
    assert contents(tmp_path / "a") == contents(fresh)
    assert TokenStore.open(fresh).image_ids == tuple(IDS[1:])


def test_a_shard_that_was_cut_off_since_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        make_store(tmp_path / "a", encode=failing_from(20))
    (tmp_path / "a" / "shard-00001.arrow").write_bytes(b"cut")
    make_store(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


@pytest.mark.parametrize("ids", [[], ["b", "a"], ["a", "a"]])
def test_ids_that_are_not_sorted_and_unique_are_refused(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(ValueError, match="sorted, unique and not empty"):
        make_store(tmp_path, image_ids=ids)


def test_tokens_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens \(3, 4, 6\) and features \(3, 2\)"):
        make_store(tmp_path, encode=lambda rows: (tokens_of(rows), torch.zeros(len(rows), 2)))


def test_tokens_that_are_not_finite_are_refused_with_their_images(tmp_path: Path) -> None:
    def broken(rows: Sequence[int]) -> Any:
        tokens, features = encode(rows)
        return tokens / (0 if 10 in rows else 1), features

    with pytest.raises(EdjeError, match=r"images 008\.jpg to 010\.jpg: .* infinite"):
        make_store(tmp_path, encode=broken)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_features_that_are_not_finite_are_refused_with_their_image(
    tmp_path: Path, value: float
) -> None:
    def broken(rows: Sequence[int]) -> Any:
        tokens, features = encode(rows)
        features = features.double()
        features[torch.tensor(list(rows)) == 10, 1] = value
        return tokens, features

    with pytest.raises(EdjeError, match=r"^image 010\.jpg: .* features that are infinite"):
        make_store(tmp_path, encode=broken)

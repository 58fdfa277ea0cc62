"""Claims about tables of embeddings."""

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.text import EmbeddingTable
from edje.tokens.text_filling import fill_table
from tests.tiny.stores import locked_elsewhere, refused

FINGERPRINT = Fingerprint({"encoder": "tiny"})
IDS = ["b#0", "a#0", "a#1"]


def write(folder: Path, value: float = 1.0) -> Path:
    EmbeddingTable.write(folder, FINGERPRINT, IDS, torch.full((3, 4), value))
    return folder


def test_a_round_trip_is_exact_and_keeps_the_order(tmp_path: Path) -> None:
    matrix = torch.randn(3, 4)
    EmbeddingTable.write(tmp_path / "t", FINGERPRINT, IDS, matrix)
    table = EmbeddingTable.open(tmp_path / "t", FINGERPRINT)
    assert table.ids == tuple(IDS)
    assert torch.equal(table.matrix, matrix)
    assert table.rows_of(["a#1", "b#0"]).tolist() == [2, 0]
    with pytest.raises(EdjeError, match="lacks 1 of 1 ids, such as c#0"):
        table.rows_of(["c#0"])


def test_writing_again_replaces_the_table_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    write(tmp_path, 2.0)
    assert (EmbeddingTable.open(tmp_path).matrix == 2).all()
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(second.iterdir())
    ]


def test_another_fingerprint_is_refused_with_the_difference(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="encoder: store has tiny, run needs big"):
        EmbeddingTable.open(write(tmp_path), Fingerprint({"encoder": "big"}))


def test_an_absent_or_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="no complete embedding table at"):
        EmbeddingTable.open(tmp_path)
    matrix = next(write(tmp_path).glob("*.safetensors"))
    content = bytearray(matrix.read_bytes())
    content[-1] ^= 1
    matrix.write_bytes(content)
    with pytest.raises(EdjeError, match=r"matrix-\w+\.safetensors has changed"):
        EmbeddingTable.open(tmp_path)
    matrix.unlink()
    with pytest.raises(EdjeError, match=r"damaged: .*matrix-\w+\.safetensors.*Delete the folder"):
        EmbeddingTable.open(tmp_path)
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(EdjeError, match=r"damaged: table\.json: 'fingerprint'"):
        EmbeddingTable.open(tmp_path)


def test_a_table_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(EdjeError, match=r"can't read .*Permission denied.*Make it readable"):
        EmbeddingTable.open(tmp_path)


def test_as_many_unique_ids_as_rows_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 ids"):
        EmbeddingTable.write(tmp_path, FINGERPRINT, ["a", "b"], torch.zeros(3, 4))
    with pytest.raises(ValueError, match="1 unique"):
        EmbeddingTable.write(tmp_path, FINGERPRINT, ["a", "a"], torch.zeros(2, 4))


def test_the_file_is_the_one_that_safetensors_writes_at_once(tmp_path: Path) -> None:
    for number, shape in enumerate([(3, 4), (0, 4), (17_000, 1000)]):
        matrix = torch.randn(shape)
        folder = tmp_path / str(number)
        EmbeddingTable.write(folder, FINGERPRINT, [str(row) for row in range(len(matrix))], matrix)
        (file,) = folder.glob("matrix-*.safetensors")
        assert file.read_bytes() == save({"matrix": matrix})
        assert torch.equal(EmbeddingTable.open(folder).matrix, matrix)


def test_a_file_of_anything_else_is_damaged(tmp_path: Path) -> None:
    for content in (
        save({"matrix": torch.zeros(3, 4).half()}),
        save({"other": torch.zeros(3, 4)}),
        save({"matrix": torch.zeros(2, 4)}),
        b"nothing",
    ):
        write(tmp_path)
        (file,) = tmp_path.glob("matrix-*.safetensors")
        table = json.loads((tmp_path / "table.json").read_text())
        file.write_bytes(content)
        table["sha256"] = hashlib.sha256(content).hexdigest()
        (tmp_path / "table.json").write_text(json.dumps(table))
        with pytest.raises(EdjeError, match="is damaged"):
            EmbeddingTable.open(tmp_path)


def peak() -> int:
    """Megabytes of this process's memory, the most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="/proc is Linux's")
def test_a_table_is_not_copied_into_memory_to_be_opened_and_read_in_parts(tmp_path: Path) -> None:
    rows = torch.arange(40_000)
    ids = [str(row) for row in rows.tolist()]
    EmbeddingTable.write(tmp_path, FINGERPRINT, ids, torch.ones(40_000, 1000))  # 160 MB
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak()
    table = EmbeddingTable.open(tmp_path)
    total = sum(table.embeddings.read(some).sum().item() for some in rows.split(1000))
    assert total == 40_000_000
    assert peak() - before < 60


def batches_of_three(
    log: list[list[int]], fail_at: int = -1
) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
    """An encoder that notes what it is asked for, and breaks at a batch."""

    def encode(rows: Tensor) -> Tensor:
        if len(log) == fail_at:
            raise KeyboardInterrupt
        log.append(rows.tolist())
        return rows[:, None] * torch.tensor([1.0, 10.0])

    return nullcontext(encode)


ROWS = torch.tensor([4, 2, 7, 0, 1, 6, 3, 5])
CAPTIONS = [f"c{row}" for row in range(8)]


def test_a_killed_filling_goes_on_with_the_batch_that_it_was_at(tmp_path: Path) -> None:
    folder, log = tmp_path / "t", []
    fill = partial(fill_table, folder, FINGERPRINT, CAPTIONS, 2, ROWS.split(3))
    with pytest.raises(KeyboardInterrupt):
        fill(batches_of_three(log, fail_at=2))
    (unfinished,) = folder.glob("unfinished-*")
    with unfinished.open("ab") as file:
        file.write(b"half a row")
    with pytest.raises(EdjeError, match="no complete embedding table"):
        EmbeddingTable.open(folder)
    fill(batches_of_three(log))
    assert log == [[4, 2, 7], [0, 1, 6], [3, 5]]
    table = EmbeddingTable.open(folder, FINGERPRINT)
    assert table.ids == tuple(CAPTIONS)
    expected = torch.arange(8.0)[:, None] * torch.tensor([1.0, 10.0])
    assert torch.equal(table.matrix, expected)
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"table.json", "matrix"}
    EmbeddingTable.write(tmp_path / "at once", FINGERPRINT, CAPTIONS, expected)
    for path in (tmp_path / "at once").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    fill(batches_of_three(log))
    assert len(log) == 3


def test_what_another_order_of_batches_left_is_not_taken(tmp_path: Path) -> None:
    log: list[list[int]] = []
    with pytest.raises(KeyboardInterrupt):
        fill_table(
            tmp_path, FINGERPRINT, CAPTIONS, 2, ROWS.split(3), batches_of_three(log, fail_at=1)
        )
    fill_table(tmp_path, FINGERPRINT, CAPTIONS, 2, torch.arange(8).split(3), batches_of_three(log))
    assert len(log) == 1 + 3
    assert EmbeddingTable.open(tmp_path).matrix[:, 0].tolist() == list(range(8))
    assert not list(tmp_path.glob("unfinished-*"))


def test_of_two_that_fill_a_table_one_waits_for_the_other(tmp_path: Path) -> None:
    log: list[list[int]] = []
    fill = partial(
        fill_table, tmp_path, FINGERPRINT, CAPTIONS, 2, ROWS.split(3), batches_of_three(log)
    )
    with locked_elsewhere(tmp_path) as other:
        with pytest.raises(EdjeError, match=f"is being written by process {other.pid}"):
            fill(wait=False)
        waiting = threading.Thread(target=fill)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not log
        other.communicate()
        waiting.join(20)
    assert len(log) == 3 and len(EmbeddingTable.open(tmp_path).ids) == 8

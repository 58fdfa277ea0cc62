"""Claims about tables of embeddings."""

from pathlib import Path

import pytest
import torch

from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.text import EmbeddingTable

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
    with pytest.raises(EdjeError, match="encoder: store has tiny, run asks for big"):
        EmbeddingTable.open(write(tmp_path), Fingerprint({"encoder": "big"}))


def test_an_absent_or_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="no whole embedding table at"):
        EmbeddingTable.open(tmp_path)
    matrix = next(write(tmp_path).glob("*.safetensors"))
    content = bytearray(matrix.read_bytes())
    content[-1] ^= 1
    matrix.write_bytes(content)
    with pytest.raises(EdjeError, match=r"matrix-\w+\.safetensors has changed"):
        EmbeddingTable.open(tmp_path)
    matrix.unlink()
    with pytest.raises(EdjeError, match="no whole embedding table"):
        EmbeddingTable.open(tmp_path)
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(EdjeError, match=r"damaged: table\.json: 'fingerprint'"):
        EmbeddingTable.open(tmp_path)


def test_as_many_unique_ids_as_rows_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 ids"):
        EmbeddingTable.write(tmp_path, FINGERPRINT, ["a", "b"], torch.zeros(3, 4))
    with pytest.raises(ValueError, match="1 unique"):
        EmbeddingTable.write(tmp_path, FINGERPRINT, ["a", "a"], torch.zeros(2, 4))

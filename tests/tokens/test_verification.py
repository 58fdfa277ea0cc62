"""Claims about verifying: every damage is found and named by its file."""

import random
from pathlib import Path

import pytest

from edje.errors import EdjeError
from edje.tokens.checksum import checksum_of
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify
from tests.tiny.stores import contents, make_store, refused


def test_a_sound_store_has_no_problems(tmp_path: Path) -> None:
    steps: list[int] = []
    assert verify(make_store(tmp_path), progress=steps.append) == []
    shards = [content for name, content in contents(tmp_path).items() if name != "store.json"]
    assert sum(steps) == sum(map(len, shards))


def test_an_absent_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="no complete token store"):
        verify(tmp_path)


def test_a_store_that_may_not_be_read_is_an_error_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(EdjeError, match=r"can't read .*store\.json: .*Make it readable"):
        verify(tmp_path)


def test_random_damage_is_always_found_and_names_the_file(tmp_path: Path) -> None:
    make_store(tmp_path)
    sound = contents(tmp_path)
    draws = random.Random(0)
    for _ in range(200):
        name = draws.choice(sorted(sound))
        content = bytearray(sound[name])
        at = draws.randrange(len(content))
        if draws.random() < 0.7:
            content[at] ^= 1 << draws.randrange(8)
        else:
            del content[at:]
        (tmp_path / name).write_bytes(content)
        problems = verify(tmp_path)
        assert problems and all(name in problem for problem in problems), (name, at, problems)
        (tmp_path / name).write_bytes(sound[name])
    assert verify(tmp_path) == []


def test_missing_and_swapped_shards_are_named(tmp_path: Path) -> None:
    make_store(tmp_path)
    first, second = tmp_path / "shard-00000.arrow", tmp_path / "shard-00001.arrow"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    TokenStore.open(tmp_path)  # equal sizes: the cheap checks can't see it
    assert [problem.split()[0] for problem in verify(tmp_path)] == [first.name, second.name]
    second.unlink()
    assert "shard-00001.arrow is missing" in verify(tmp_path)


def test_a_checksum_names_its_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert checksum_of(path) == "xxh3_128:99aa06d3014798d86001c324468d497f"  # as xxHash has it

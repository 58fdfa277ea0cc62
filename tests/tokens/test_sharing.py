"""Claims about shared stores; the hub is a folder here, everything else is real."""

from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import DatasetCard

from edje.errors import EdjeError
from edje.tokens import sharing as hub
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.remote import RemoteFolder
from edje.tokens.sharing import load_from_hub, push_to_hub
from edje.tokens.store import TokenStore
from tests.tiny.folder_hub import FolderHub
from tests.tiny.stores import FINGERPRINT, IDS, NUM_IMAGES, make_store

REPO = "someone/tokens"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    FolderHub.root = tmp_path / "hub"
    monkeypatch.setattr(hub, "HfApi", FolderHub)
    return TokenStore.open(make_store(tmp_path / "store"))


def test_what_was_pushed_is_loaded_with_equal_tokens(store: TokenStore) -> None:
    assert push_to_hub(store, REPO, licence="cc-by-4.0") == f"hub://{REPO}/1"
    loaded = load_from_hub(REPO, FINGERPRINT)
    assert loaded.folder != store.folder
    rows = torch.arange(NUM_IMAGES)
    assert torch.equal(loaded.read(rows), store.read(rows))
    assert FolderHub.private and FolderHub.repo_type == "dataset"
    with pytest.raises(EdjeError, match="layer: store has -1, run needs -2"):
        load_from_hub(REPO, Fingerprint({**FINGERPRINT.fields, "layer": -2}))


def test_the_repository_is_an_ordinary_data_set(store: TokenStore, tmp_path: Path) -> None:
    push_to_hub(store, REPO, licence="cc-by-4.0", private=False)
    table = datasets.load_dataset(
        str(FolderHub.root / REPO), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table["image_id"][:] == IDS
    assert table[13]["tokens"] == store.read_cells(torch.tensor([13]).numpy()).tobytes()
    assert not FolderHub.private and FolderHub.repo_type == "dataset"


def test_the_card_states_fingerprint_and_licence(store: TokenStore) -> None:
    push_to_hub(store, REPO, licence="cc-by-nc-4.0")
    text = (FolderHub.root / REPO / "README.md").read_text()
    assert DatasetCard(text).data.license == "cc-by-nc-4.0"
    assert "The images' licence: **cc-by-nc-4.0**" in text
    assert FINGERPRINT.digest in text and '"backbone": "tiny"' in text


def test_nothing_is_shared_without_a_licence(store: TokenStore) -> None:
    with pytest.raises(TypeError, match="licence"):
        push_to_hub(store, REPO)  # type: ignore[call-arg]
    with pytest.raises(EdjeError, match="needs licence="):
        push_to_hub(store, REPO, licence=" ")
    assert not (FolderHub.root / REPO).exists()


def test_a_damaged_store_is_not_shared(store: TokenStore) -> None:
    assert isinstance(store.folder, Path)
    path = store.folder / "shard-00003.arrow"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(EdjeError, match=r"damaged, not uploaded: shard-00003\.arrow has changed"):
        push_to_hub(store, REPO, licence="cc-by-4.0")
    assert not (FolderHub.root / REPO).exists()


def test_a_repository_that_is_not_there_is_named(store: TokenStore) -> None:
    with pytest.raises(EdjeError, match=r"data set someone/tokens: ConnectionError: 404.*rights"):
        load_from_hub(REPO)


def test_a_repository_without_a_store_is_refused(store: TokenStore) -> None:
    (FolderHub.root / REPO).mkdir(parents=True)
    with pytest.raises(EdjeError, match="doesn't exist"):
        load_from_hub(REPO)


def test_a_remote_store_is_not_uploaded(store: TokenStore) -> None:
    remote = TokenStore(RemoteFolder("memory://x"), store.manifest)
    with pytest.raises(EdjeError, match="memory://x: only a local store"):
        push_to_hub(remote, REPO, licence="cc-by-4.0")

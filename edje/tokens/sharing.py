"""Sharing a store: its files and a card form an ordinary `datasets` repository on the hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi

from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify

SHARDS = "shard-*.arrow"


def push_to_hub(
    store: TokenStore,
    repo: str,
    *,
    licence: str,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Upload a store in one commit, after checking every byte; returns the commit's URL.

    `licence` is the images' licence, as the hub names licences (`cc-by-4.0`, `other`, …). Tokens
    reveal much of what an image shows, so whoever loads them must know what is allowed. A missing
    repository is created, private by default.

    Raises:
        EdjeError: no licence is given, the store isn't local or is damaged, or the hub refuses the
            upload or can't be reached.
    """
    folder = store.folder
    card = store_card(store, repo, licence)
    if not isinstance(folder, Path):
        raise EdjeError(f"{folder}: only a local store can be uploaded. Copy it to a folder first.")
    problems = verify(folder)
    if problems:
        raise EdjeError(f"the store {folder} is damaged, not uploaded: {'; '.join(problems)}.")
    names = [STORE_FILE, *(shard.file for shard in store.manifest.shards)]
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    with reaching_hub(f"data set {repo}"):
        api = HfApi(token=token)
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        commit = api.create_commit(
            repo, operations, commit_message="Token store", repo_type="dataset"
        )
    return str(commit.commit_url)


def load_from_hub(
    repo: str,
    expect: Fingerprint | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> TokenStore:
    """Download a shared store, or its missing files, and open it from the hub's local cache.

    To read single cells without a download: `TokenStore.open("hf://datasets/<repo>")`.

    Raises:
        EdjeError: the hub can't be reached or doesn't have it, it is not a complete store, or it
            holds other tokens than expected.
    """
    with reaching_hub(f"data set {repo}"):
        folder = HfApi(token=token).snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=[STORE_FILE, SHARDS]
        )
    return TokenStore.open(Path(folder), expect)


def store_card(store: TokenStore, repo: str, licence: str) -> str:
    """The repository's README: how to load it, the images' licence, the fingerprint.

    Raises:
        EdjeError: no licence is given.
    """
    if not licence.strip():
        raise EdjeError(
            "push_to_hub needs licence=<the images' licence>, as the hub names it, such as "
            "cc-by-4.0, or other. Without a licence nobody may use what you share."
        )
    header = DatasetCardData(
        license=licence,
        tags=["edje", "visual tokens"],
        configs=[{"config_name": "default", "data_files": SHARDS}],
    )
    facts = store.manifest
    shape = f"{facts.num_tokens} tokens of width {facts.width} per image"
    fields = json.dumps(dict(facts.fingerprint.fields), indent=1, sort_keys=True)
    return f"""---
{header.to_yaml()}
---

# Visual tokens of {len(store):,} images

{shape}, stored as {facts.codec} in cells of {store.cell_bytes:,} bytes, with the backbone's pooled
features ({facts.feature_width} numbers) and the images' ids.

The images' licence: **{licence}**. The tokens are computed from the images.

```python
from edje.tokens.sharing import load_from_hub

store = load_from_hub("{repo}")
tokens = store.read(store.rows_of([...]))  # (images, {facts.num_tokens}, {facts.width})
```

With `datasets.load_dataset("{repo}")` a row has `image_id`, `features` and the cell's bytes as
`tokens`.

## Fingerprint

`{facts.fingerprint.digest}`: stores with the same fingerprint hold the same tokens.

```json
{fields}
```
"""


@contextmanager
def reaching_hub(what: str) -> Iterator[None]:
    """Turn the hub's refusals and network failures into one error that names the repository.

    Raises:
        EdjeError: the block raised anything else than an EdjeError.
    """
    try:
        yield
    except EdjeError:
        raise
    except Exception as error:  # from the hub's client, HTTP or the network
        raise EdjeError(
            f"the hub's {what}: {type(error).__name__}: {error}. Check its name, your "
            "network and your rights (`hf auth login`)."
        ) from error

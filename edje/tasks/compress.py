"""Compress: a trained adapter's tokens of every image, from the raw tier of the store."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone
from edje.data.source import Source
from edje.inference.checkpoint import Checkpoint, keep_first_tokens, load_checkpoint
from edje.records import RetrievalSplit
from edje.tasks.collection import Collection, collection_of, is_compressed, raw_fingerprint
from edje.tasks.console import quiet_libraries
from edje.tasks.scoring import Evaluation, visual_shape
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=compress`: fill the compressed tier of `data.split`; no vision tower is loaded.

    Writes where it lies to compress.json. `store` names a raw store to be read in place of the
    cache's own.

    Raises:
        EdjeError: there is no raw store of the checkpoint's backbone and these images, or the
            compressed one can't be written or is being written.
    """
    quiet_libraries()
    checkpoint = load_checkpoint(Path(cfg.checkpoint))
    source: Source = instantiate(cfg.data)
    evaluation: Evaluation = instantiate(cfg.evaluation)
    if evaluation.num_tokens is not None:
        keep_first_tokens(checkpoint, evaluation.num_tokens)
    split = source.read(source.split)
    cache_dir = Path(cfg.cache_dir)
    expected = raw_fingerprint(split, checkpoint.backbone, cfg.store_codec)
    raw = TokenStore.open(
        cfg.store or store_folder(cache_dir, source.name, source.split, "raw", expected), expected
    )
    fingerprint = compressed_fingerprint(checkpoint, split, cfg.store_codec, evaluation.codec)
    target = store_folder(cache_dir, source.name, source.split, "compressed", fingerprint)
    write_compressed(checkpoint, raw, target, fingerprint, evaluation)
    store = TokenStore.open(target, fingerprint)
    report = {
        "store": str(target),
        "num_images": len(store),
        "storage_bytes_per_image": store.cell_bytes,
    }
    (folder / "compress.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("compressed tokens of %s: %s (%d B each)", source.split, target, store.cell_bytes)


def write_compressed(
    checkpoint: Checkpoint,
    raw: TokenStore,
    target: Path,
    fingerprint: Fingerprint,
    evaluation: Evaluation,
) -> None:
    """Fill a compressed store with what the checkpoint's adapter makes of a raw store's tokens."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = checkpoint.model.to(device)
    features = raw.features()

    @torch.inference_mode()
    def encode(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(rows)
        return model.compress(raw.read(at, device=device)).float(), features[at]

    num_tokens, width = visual_shape(checkpoint)
    with tqdm(total=len(raw), desc="compress", unit="image") as bar:
        write_store(
            target,
            fingerprint,
            raw.image_ids,
            make_codec(evaluation.codec, num_tokens, width),
            features.shape[1],
            encode,
            progress=bar.update,
            wait=False,
        )


def compressed_fingerprint(
    checkpoint: Checkpoint, split: RetrievalSplit, raw_codec: str, codec: str
) -> Fingerprint:
    """What makes a split's compressed tier: its raw tier, the adapter, the number format."""
    raw = raw_fingerprint(split, checkpoint.backbone, raw_codec).fields
    num_tokens, width = visual_shape(checkpoint)
    return Fingerprint(
        {
            **raw,
            "raw_codec": raw_codec,
            "codec": codec,
            "adapter": checkpoint.adapter.target,
            "adapter_choices": json.dumps(dict(checkpoint.adapter.choices), sort_keys=True),
            "adapter_weights": weights_digest(checkpoint.model.adapter),
            "visual_tokens": num_tokens,
            "visual_width": width,
        }
    )


def compressed_collection(
    cfg: DictConfig,
    source: Source,
    backbone: Backbone,
    checkpoint: Checkpoint,
    evaluation: Evaluation,
) -> Collection | None:
    """The evaluated split with the checkpoint's compressed tokens; None where only raw ones are.

    They are read from `store` if that is a compressed one, or else from the cache.

    Raises:
        EdjeError: the given store is of another adapter, codec, backbone or other images.
    """
    split = source.read(source.split)
    cache_dir = Path(cfg.cache_dir)
    fingerprint = compressed_fingerprint(checkpoint, split, cfg.store_codec, evaluation.codec)
    if cfg.store is None:
        folder = store_folder(cache_dir, source.name, source.split, "compressed", fingerprint)
        if not (folder / STORE_FILE).is_file():
            return None
    else:
        folder = Path(cfg.store)
        if not is_compressed(TokenStore.open(folder)):
            return None
    rebuild = f"python run.py task=compress checkpoint={cfg.checkpoint or '<this run>'}"
    store = TokenStore.open(folder, fingerprint, rebuild=rebuild)
    log.info("reading the compressed tokens of %s", folder)
    return collection_of(source, split, backbone, store, cache_dir)

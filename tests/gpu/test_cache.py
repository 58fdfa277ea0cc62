"""Claims about the predict loop that fills a store."""

import types

import pytest
import torch
from PIL import Image

import edje
from edje.backbones.huggingface import HuggingFaceBackbone
from edje.data.datamodules.shard_datamodule import PixelRows
from edje.pipeline.collection import Tower
from edje.pipeline.devices import devices_of
from edje.pipeline.storage import Storage
from edje.pipeline.writing import fill_store
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from tests.gpu.sizes import ACCELERATOR, DEVICE, IS_REAL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings(
        "ignore:.*does not have many workers.*",
        "ignore:.*This process .* is multi-threaded, use of fork.*",
        "ignore:.*`isinstance.treespec, LeafSpec.`.*",
    ),
]
IMAGES, BATCH = (200, 64) if IS_REAL else (6, 4)


@pytest.mark.parametrize("device", [*devices_of(ACCELERATOR), torch.device(DEVICE.type)])
def test_a_store_filled_by_forked_loaders_holds_the_tokens_of_the_cpu(tmp_path, device):
    """The device, with its number or without, is in use before the loaders are forked.

    bf16 keeps 8 bits of each number.
    """
    torch.zeros(1, device=DEVICE)
    backbone = HuggingFaceBackbone(
        pretrained=str(next(iter(edje.__path__)) + "/assets/shapes/backbone"), layer=-3
    )
    ids = [f"{row:03d}" for row in range(IMAGES)]
    paths = [str(tmp_path / f"{image_id}.png") for image_id in ids]
    for row, path in enumerate(paths):
        Image.new("RGB", (96, 96), (row, 255 - row, 40)).save(path)
    work = types.SimpleNamespace(
        description="check",
        feature_width=backbone.feature_width,
        precision="tf32",
        image_ids=ids,
        encoder=lambda: Tower(backbone),
        dataset=lambda: PixelRows(paths, backbone.preprocess),
    )
    codec = make_codec("bf16", backbone.num_tokens, backbone.token_width)
    folder = tmp_path / "store"
    fill_store(
        folder,
        Fingerprint({"backbone": "shapes"}),
        codec,
        lambda: work,
        Storage(batch_size=BATCH, num_workers=4 if IS_REAL else 1),
        [device],
    )
    found = TokenStore.open(folder).read(torch.arange(4))
    pixels = torch.stack([backbone.preprocess(Image.open(path).convert("RGB")) for path in paths])
    expected = backbone.cpu().encode_images(pixels[:4]).tokens
    assert (found - expected).square().mean().sqrt() < 2**-8 * expected.std()

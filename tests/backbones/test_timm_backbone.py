"""TimmBackbone gives timm's own features, as tokens."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from edje.backbones.timm_backbone import TimmBackbone
from edje.errors import EdjeError
from tests.tiny.image_files import photo
from tests.tiny.towers import save_timm

CONV = "mobilenetv2_050"
VIT = "vit_tiny_patch16_224"
VIT_ARGS = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
CROSSVIT_ARGS = {"embed_dim": (16, 32), "num_heads": (1, 1), "depth": ((1, 1, 0),)}
PIT_ARGS = {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 1, 1)}
CHANNELS_LAST = {
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 2,
    },
    "mambaout_femto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)},
    "hieradet_small": {  # by itself it stops at the last stage that is asked for
        "embed_dim": 8,
        "num_heads": 1,
        "stages": (1, 1, 1, 1),
        "global_att_blocks": (),
    },
}


@pytest.fixture(scope="module")
def conv_file(tmp_path_factory):
    return str(save_timm(tmp_path_factory.mktemp("conv") / "weights.safetensors", CONV))


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("vit") / "weights.safetensors"
    return str(save_timm(file, VIT, **VIT_ARGS))


def conv(file, **arguments):
    return TimmBackbone(model=CONV, checkpoint=file, image_size=64, **arguments)


def vit(file, **arguments):
    return TimmBackbone(model=VIT, checkpoint=file, model_args=VIT_ARGS, image_size=32, **arguments)


def pixels(side, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_feature_map_is_flattened_row_by_row(conv_file):
    backbone = conv(conv_file)
    encoding = backbone.encode_images(pixels(64))
    with torch.no_grad():
        values = backbone.model.forward_features(pixels(64))  # (2, 1280, 2, 2)
    assert encoding.tokens.shape == (2, backbone.num_tokens, backbone.token_width) == (2, 4, 1280)
    torch.testing.assert_close(encoding.tokens[:, 2], values[:, :, 1, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoding.features, values.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def test_a_transformer_gives_its_patches_without_the_class_token(vit_file):
    backbone = vit(vit_file)
    encoding = backbone.encode_images(pixels(32))
    with torch.no_grad():
        values = backbone.model.forward_features(pixels(32))
    torch.testing.assert_close(encoding.tokens, values[:, 1:])
    torch.testing.assert_close(encoding.features, values[:, 0])
    assert (backbone.num_tokens, backbone.token_width) == (4, 48)


def test_adapters_take_heads_and_epsilon_of_the_tower_or_the_documented_choice(conv_file, vit_file):
    transformer, convolutional = vit(vit_file), conv(conv_file)
    assert (transformer.num_heads, transformer.layer_norm_eps) == (3, 1e-6)
    assert (convolutional.num_heads, convolutional.layer_norm_eps) == (20, 1e-6)


def test_the_heads_are_those_of_the_blocks_also_if_the_pooling_has_others(tmp_path):
    model, arguments = "vit_pe_core_tiny_patch16_384", VIT_ARGS | {"depth": 1}
    file = str(save_timm(tmp_path / "weights.safetensors", model, **arguments))
    backbone = TimmBackbone(model=model, checkpoint=file, model_args=arguments, image_size=32)
    assert backbone.model.attn_pool.num_heads == 8
    assert backbone.num_heads == backbone.model.blocks[-1].attn.num_heads == 3


def test_a_tower_that_gives_a_list_is_refused_as_such(tmp_path):
    model = "crossvit_tiny_240"
    file = str(save_timm(tmp_path / "weights.safetensors", model, **CROSSVIT_ARGS))
    with pytest.raises(EdjeError, match=r"features as a list; expected .*Take another timm model"):
        TimmBackbone(model=model, checkpoint=file, model_args=CROSSVIT_ARGS, image_size=240)


def test_a_tower_of_a_single_token_is_warned_of(tmp_path, conv_file, caplog):
    conv(conv_file)
    assert "single token" not in caplog.text
    file = str(save_timm(tmp_path / "weights.safetensors", "pit_ti_224", **PIT_ARGS))
    TimmBackbone(model="pit_ti_224", checkpoint=file, model_args=PIT_ARGS, image_size=64)
    assert "'pit_ti_224' gives a single token" in caplog.text


def test_a_channels_last_map_is_read_as_one():
    backbone = TimmBackbone.__new__(TimmBackbone)
    torch.nn.Module.__init__(backbone)
    backbone.model = torch.nn.Identity()
    backbone.model.output_fmt = "NHWC"
    values = torch.randn(2, 3, 3, 8)
    torch.testing.assert_close(backbone._tokens(values), values.reshape(2, 9, 8))


def test_preprocess_scales_to_the_range_of_the_weights(conv_file):
    backbone = conv(conv_file)
    white = backbone.preprocess(Image.new("RGB", (100, 70), (255, 255, 255)))
    black = backbone.preprocess(Image.new("L", (64, 64), 0))
    assert white.shape == black.shape == (3, 64, 64)
    assert white.eq(1).all() and black.eq(-1).all()


def test_resize_squashes_or_keeps_the_centre(conv_file):
    stripes = np.zeros((64, 192, 3), dtype=np.uint8)
    stripes[:, 64:128] = 255  # the middle third is white
    image = Image.fromarray(stripes)
    assert conv(conv_file, resize="crop").preprocess(image).eq(1).all()
    squashed = conv(conv_file, resize="squash").preprocess(image)
    assert squashed[:, :, 0].eq(-1).all() and squashed[:, :, 32].eq(1).all()


def test_a_thin_image_is_never_enlarged_whole(conv_file, monkeypatch):
    backbone, sizes, resize = conv(conv_file, resize="crop"), [], Image.Image.resize
    with monkeypatch.context() as patched:
        patched.setattr(
            Image.Image,
            "resize",
            lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest),
        )
        centre = backbone.preprocess(photo(2, 4001))
    assert sizes == [(64, 64 * 50 + 32)]  # and half a pixel at both ends, for 4001 is odd
    whole = photo(2, 4001).resize((64, 64 * 4001 // 2), Image.Resampling.BICUBIC)
    top = (whole.height - 64) // 2
    expected = torch.from_numpy(np.array(whole.crop((0, top, 64, top + 64)))).permute(2, 0, 1)
    torch.testing.assert_close(centre, expected / 127.5 - 1, rtol=0, atol=0.02)


def test_identity_tells_weights_and_preprocessing_apart(conv_file, tmp_path):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model(CONV, pretrained=False).state_dict(), other)
    identity = conv(conv_file).identity()
    assert identity == conv(conv_file).identity()
    assert identity["weights"] != conv(str(other)).identity()["weights"]
    cropped = conv(conv_file, resize="crop").identity()
    assert identity["preprocessing"] != cropped["preprocessing"]
    assert identity["weights"] == cropped["weights"]


def test_backbone_is_frozen_and_stays_in_evaluation_mode(conv_file):
    backbone = conv(conv_file).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_neighbour_in_the_batch_never_changes_tokens(conv_file):
    backbone = conv(conv_file)
    together = backbone.encode_images(pixels(64)).tokens[:1]
    alone = backbone.encode_images(pixels(64)[:1]).tokens
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_torch_file_is_read_too(conv_file, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": conv(conv_file).model.state_dict()}, file)
    assert conv(str(file)).identity() == conv(conv_file).identity()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(EdjeError, match=r"nowhere.safetensors' is not a file.*Give the path"):
        conv(str(tmp_path / "nowhere.safetensors"))


def test_weights_of_another_model_are_refused(vit_file):
    with pytest.raises(EdjeError, match=rf"doesn't fit timm's '{CONV}'"):
        conv(vit_file)


def test_an_unknown_model_names_near_ones():
    with pytest.raises(EdjeError, match=r"'mobilenetv2_1' is not a model of timm.*mobilenetv2_100"):
        TimmBackbone(model="mobilenetv2_1")


def test_an_unknown_model_argument_is_refused(conv_file):
    with pytest.raises(EdjeError, match=r"can't make model.*paddington"):
        conv(conv_file, model_args={"paddington": 1})


def test_an_image_size_that_the_tower_cannot_take_is_refused(vit_file):
    with pytest.raises(EdjeError, match="doesn't take images of 40 pixels"):
        TimmBackbone(model=VIT, checkpoint=vit_file, model_args=VIT_ARGS, image_size=40)


def test_stages_lie_beside_the_last_map_cell_by_cell(conv_file):
    backbone = conv(conv_file, stages=[1, 3])
    plain = conv(conv_file).encode_images(pixels(64))
    encoding = backbone.encode_images(pixels(64))
    with torch.no_grad():
        _, (early, later) = backbone.model.forward_intermediates(pixels(64), indices=[1, 3])
    widths = (plain.tokens.shape[2], early.shape[1], later.shape[1])
    assert backbone.token_width == sum(widths)
    last, first, second = encoding.tokens.split(widths, dim=2)
    torch.testing.assert_close(last, plain.tokens, rtol=1e-4, atol=1e-5)
    side = early.shape[3] // 2  # cells of the last map, 2 x 2
    torch.testing.assert_close(
        first[:, 1], early[:, :, :side, side:].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(second[:, 3].shape, later[:, :, 0, 0].shape)
    torch.testing.assert_close(encoding.features, plain.features, rtol=1e-4, atol=1e-5)
    assert backbone.identity()["layer"] != conv(conv_file).identity()["layer"]


@pytest.mark.parametrize("model", CHANNELS_LAST)
def test_stages_lie_beside_a_channels_last_map_too(tmp_path, model):
    arguments = CHANNELS_LAST[model]
    backbone = TimmBackbone(
        model=model,
        checkpoint=str(save_timm(tmp_path / "weights.safetensors", model, **arguments)),
        model_args=arguments,
        image_size=64,
        stages=[-2],
    )
    tokens = backbone.encode_images(pixels(64)).tokens
    with torch.no_grad():
        last = backbone.model.forward_features(pixels(64))  # (2, rows, columns, channels)
        (stage,) = backbone.model.forward_intermediates(
            pixels(64), indices=[-2], intermediates_only=True
        )  # (2, channels, 2 rows, 2 columns)
    rows, columns, width = last.shape[1:]
    expected = stage.unflatten(2, (rows, 2)).unflatten(4, (columns, 2)).mean(dim=(3, 5))
    grid = tokens.unflatten(1, (rows, columns))
    torch.testing.assert_close(grid[..., :width], last, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        grid[..., width:], expected.permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4
    )


def test_features_can_be_those_of_a_smaller_image(conv_file):
    both = conv(conv_file, feature_image_size=32).encode_images(pixels(64))
    large = conv(conv_file).encode_images(pixels(64))
    small = torch.nn.functional.interpolate(pixels(64), (32, 32), mode="bicubic", antialias=True)
    expected = TimmBackbone(model=CONV, checkpoint=conv_file, image_size=32).encode_images(small)
    torch.testing.assert_close(both.tokens, large.tokens)
    torch.testing.assert_close(both.features, expected.features, rtol=1e-4, atol=1e-5)
    identities = [conv(conv_file, feature_image_size=side).identity() for side in (None, 32)]
    assert identities[0]["preprocessing"] != identities[1]["preprocessing"]


def test_a_stage_that_the_model_does_not_have_is_refused(conv_file):
    with pytest.raises(EdjeError, match="stages"):
        conv(conv_file, stages=[9])


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_weights_are_named_by_checkpoint_alone(vit_file, name):
    """What timm itself would read may come from anywhere."""
    with pytest.raises(EdjeError, match=rf"model_args has {name}, .*checkpoint=<file of weights>"):
        TimmBackbone(model=VIT, checkpoint=vit_file, model_args={**VIT_ARGS, name: "x.pth"})

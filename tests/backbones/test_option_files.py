"""Every file of conf/backbone names the model that the paper names, and reads it as its authors do.

The weights lie on the hub, out of reach of the tests: each option is given a tiny model of the same
class, of the published image and patch size, saved on the spot.
"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.config.locations import conf_folder, register_resolvers
from tests.tiny.image_files import photo
from tests.tiny.towers import save_clip, save_siglip

# option: hub name, image side, patch side, tokens (METHOD: the counts of the paper's section 3)
CLIP = {
    "clip_b16": ("openai/clip-vit-base-patch16", 224, 16, 196),
    "clip_l14": ("openai/clip-vit-large-patch14", 224, 14, 256),
    "clip_l14_336": ("openai/clip-vit-large-patch14-336", 336, 14, 576),
    "dfn_l14": ("apple/DFN2B-CLIP-ViT-L-14-39B", 224, 14, 256),
    "metaclip_l14": ("facebook/metaclip-l14-fullcc2.5b", 224, 14, 256),
}
SIGLIP = {
    "siglip_b16": ("google/siglip-base-patch16-224", 224, 16, 196),
    "siglip2_b16_224": ("google/siglip2-base-patch16-224", 224, 16, 196),
    "siglip2_b16_384": ("google/siglip2-base-patch16-384", 384, 16, 576),
    "siglip2_l16_256": ("google/siglip2-large-patch16-256", 256, 16, 256),
    "siglip2_l16_384": ("google/siglip2-large-patch16-384", 384, 16, 576),
}
# option: small sizes of the same architecture
TIMM: dict[str, dict[str, Any]] = {
    "dinov3_s16_aligned": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "efficientnet_lite2_aligned": {"num_classes": 5},
    "mobilenetv2_aligned": {"num_classes": 5},
}
COUNTS = {"dinov3_s16_aligned": 256, "efficientnet_lite2_aligned": 81, "mobilenetv2_aligned": 49}
OTHER = {"shapes"}  # not a published model; tested in a file of its own
CAPTIONS = ["A brown DOG runs in the snow", "the dog"]


def option(name: str) -> Any:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("run", [f"backbone={name}"]).backbone


@pytest.fixture(params=[*CLIP, *SIGLIP], scope="module")
def built(request, tmp_path_factory) -> tuple[str, Path, HuggingFaceBackbone]:
    """The option's name, the folder of its tiny model, and the backbone that the option makes."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    save = save_clip if name in CLIP else save_siglip
    _, image, patch, _ = (CLIP | SIGLIP)[name]
    save(folder, image_size=image, patch_size=patch)
    return name, folder, instantiate(option(name), pretrained=str(folder))


def test_every_option_is_checked_here():
    files = {file.stem for file in (conf_folder() / "backbone").glob("*.yaml")}
    assert files == {*CLIP, *SIGLIP, *TIMM} | OTHER


@pytest.mark.parametrize("name", [*CLIP, *SIGLIP])
def test_the_option_names_the_published_model(name):
    assert option(name).pretrained == (CLIP | SIGLIP)[name][0]


def test_tokens_and_image_embeddings_are_those_of_transformers(built):
    name, folder, backbone = built
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    pixels = processor(photo(), return_tensors="pt")["pixel_values"]
    levels = 3 / 255 / 0.26  # of 8 bits; PIL and torchvision round their resizing differently
    torch.testing.assert_close(backbone.preprocess(photo())[None], pixels, rtol=0, atol=levels)
    with torch.no_grad():
        states = model.vision_model(pixels, output_hidden_states=True)
        embeddings = model(pixel_values=pixels, input_ids=torch.tensor([[2, 6, 3]])).image_embeds
    # penultimate layer without the class token; SigLIP's last state after the final norm
    expected = states.hidden_states[-2][:, 1:] if name in CLIP else states.last_hidden_state
    found = backbone.encode_images(pixels)
    torch.testing.assert_close(found.tokens, expected)
    torch.testing.assert_close(backbone.project_images(found.features), embeddings)
    count = (CLIP | SIGLIP)[name][3]
    assert found.tokens.shape == (1, count, 32) and backbone.num_tokens == count
    assert (backbone.num_heads, backbone.token_width) == (4, 32)
    assert backbone.layer_norm_eps == (1e-5 if name in CLIP else 1e-6)


def test_caption_embeddings_are_those_of_transformers(built):
    """SigLIP reads lower-cased captions padded to full length, without a mask; CLIP with one."""
    name, folder, backbone = built
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    lower = [caption.lower() for caption in CAPTIONS]
    if name in CLIP:
        batch = tokenizer(CAPTIONS, padding="longest", return_tensors="pt")
    else:
        batch = tokenizer(lower, padding="max_length", max_length=12, return_tensors="pt")
        del batch["attention_mask"]
    side = (CLIP | SIGLIP)[name][1]
    with torch.no_grad():
        full = model(
            pixel_values=torch.zeros(1, 3, side, side),
            input_ids=batch["input_ids"],
            attention_mask=batch.get("attention_mask"),
        )
    found = backbone.encode_texts(CAPTIONS)
    torch.testing.assert_close(backbone.project_texts(found), full.text_embeds)
    torch.testing.assert_close(found, backbone.encode_texts(lower))


@pytest.mark.parametrize("name", TIMM)
def test_timm_tokens_are_timms_own_features(name, tmp_path):
    vision = option(name).vision
    model_args = {**(vision.get("model_args") or {}), **TIMM[name]}
    model = timm.create_model(vision.model, pretrained=False, **model_args).eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    backbone = instantiate(vision, checkpoint=str(file), model_args=model_args)
    pixels = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # the backbone's, by one kernel
    with torch.no_grad():
        features = model.forward_features(pixels)
        pooled = model.forward_head(features, pre_logits=True)
    if features.ndim == 4:
        features = features.flatten(2).mT
    expected = features[:, getattr(model, "num_prefix_tokens", 0) :]
    found = backbone.encode_images(pixels)
    torch.testing.assert_close(found.tokens, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features, pooled.flatten(1), rtol=1e-4, atol=1e-5)
    assert backbone.num_tokens == COUNTS[name]


def test_dinov3_sees_what_timm_shows_it(tmp_path):
    vision = option("dinov3_s16_aligned").vision
    published = timm.get_pretrained_cfg(vision.model)
    assert published.hf_hub_id == f"timm/{vision.model}"  # timm has weights under this name
    model = timm.create_model(vision.model, pretrained=False, **TIMM["dinov3_s16_aligned"])
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = instantiate(
        vision,
        checkpoint=str(tmp_path / "weights.safetensors"),
        model_args=TIMM["dinov3_s16_aligned"],
    )
    settings = timm.data.resolve_data_config(pretrained_cfg=published.to_dict())
    transform = timm.data.create_transform(**settings)
    image = photo(600, 400)
    torch.testing.assert_close(backbone.preprocess(image), transform(image), rtol=0, atol=1e-5)

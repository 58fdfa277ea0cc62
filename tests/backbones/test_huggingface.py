"""HuggingFaceBackbone gives what transformers gives, at the layer that was asked for."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.errors import EdjeError
from tests.tiny.encoders import encoder_config
from tests.tiny.image_files import photo
from tests.tiny.shared import PARITY
from tests.tiny.towers import save_clip, save_siglip

CAPTIONS = ["a brown dog runs in the snow", "the dog"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("siglip"))


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_siglip_tokens_are_after_the_final_norm(siglip):
    backbone = HuggingFaceBackbone(pretrained=str(siglip))
    encoding = backbone.encode_images(pixels())
    model = AutoModel.from_pretrained(siglip)
    with torch.no_grad():
        outputs = model.vision_model(pixels(), output_hidden_states=True)
    torch.testing.assert_close(encoding.tokens, outputs.last_hidden_state, rtol=0, atol=0)
    assert not torch.allclose(encoding.tokens, outputs.hidden_states[-1])
    torch.testing.assert_close(encoding.features, outputs.pooler_output)
    assert encoding.tokens.shape == (3, backbone.num_tokens, backbone.token_width) == (3, 4, 32)


def test_clip_tokens_are_the_penultimate_layer_without_class_token(clip):
    backbone = HuggingFaceBackbone(pretrained=str(clip))
    encoding = backbone.encode_images(pixels())
    model = AutoModel.from_pretrained(clip)
    with torch.no_grad():
        states = model.vision_model(pixels(), output_hidden_states=True).hidden_states
        full = model(pixel_values=pixels(), input_ids=torch.tensor([[2, 6, 3]]))
    torch.testing.assert_close(encoding.tokens, states[2][:, 1:], rtol=0, atol=0)
    assert encoding.tokens.shape == (3, backbone.num_tokens, backbone.token_width) == (3, 4, 32)
    torch.testing.assert_close(backbone.project_images(encoding.features), full.image_embeds)


def test_a_used_one_is_sent_with_its_weights_as_they_are(clip):
    backbone = HuggingFaceBackbone(pretrained=str(clip), attention="eager")
    backbone.model.visual_projection.weight.mul_(2)
    before = backbone.encode_images(pixels())
    sent = pickle.loads(pickle.dumps(backbone))
    after = sent.encode_images(pixels())
    assert torch.equal(after.tokens, before.tokens)
    assert torch.equal(after.features, before.features)
    assert torch.equal(sent.encode_texts(CAPTIONS), backbone.encode_texts(CAPTIONS))
    assert sent.identity() == backbone.identity() and not sent.model.training
    assert sent.model.config._attn_implementation == "eager"
    assert not any(weight.requires_grad for weight in sent.parameters())


def test_layer_and_class_token_are_choices(clip):
    backbone = HuggingFaceBackbone(pretrained=str(clip), layer=1, keep_class_token=True)
    model = AutoModel.from_pretrained(clip)
    with torch.no_grad():
        states = model.vision_model(pixels(), output_hidden_states=True).hidden_states
    assert backbone.num_tokens == 5
    torch.testing.assert_close(backbone.encode_images(pixels()).tokens, states[1], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_attention_implementation_changes_speed_only(family, request):
    folder = str(request.getfixturevalue(family))
    sdpa = HuggingFaceBackbone(pretrained=folder)
    eager = HuggingFaceBackbone(pretrained=folder, attention="eager")
    torch.testing.assert_close(
        eager.encode_images(pixels()).tokens, sdpa.encode_images(pixels()).tokens
    )
    torch.testing.assert_close(eager.encode_texts(CAPTIONS), sdpa.encode_texts(CAPTIONS))
    assert eager.identity() == sdpa.identity()


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_text_features_are_those_of_the_model(family, request):
    folder = request.getfixturevalue(family)
    backbone = HuggingFaceBackbone(pretrained=str(folder))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    padding = "longest" if family == "clip" else "max_length"
    batch = tokenizer(CAPTIONS, padding=padding, max_length=12, return_tensors="pt")
    mask = batch["attention_mask"] if family == "clip" else None
    with torch.no_grad():
        full = model(pixel_values=pixels(), input_ids=batch["input_ids"], attention_mask=mask)
    features = backbone.encode_texts(CAPTIONS)
    assert features.shape == (2, backbone.text_width)
    torch.testing.assert_close(backbone.project_texts(features), full.text_embeds)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_caption_neighbour_never_changes_features(family, request):
    backbone = HuggingFaceBackbone(pretrained=str(request.getfixturevalue(family)))
    alone = backbone.encode_texts(CAPTIONS[1:])
    together = backbone.encode_texts(CAPTIONS)[1:]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_siglip_lowers_case_and_cuts_long_captions(siglip):
    backbone = HuggingFaceBackbone(pretrained=str(siglip))
    torch.testing.assert_close(
        backbone.encode_texts(["A Brown DOG"]), backbone.encode_texts(["a brown dog"])
    )
    assert backbone.encode_texts(["dog " * 40]).shape == (1, backbone.text_width)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_preprocess_gives_pixels_of_the_tower(family, request):
    backbone = HuggingFaceBackbone(pretrained=str(request.getfixturevalue(family)))
    values = backbone.preprocess(photo())
    assert values.shape == (3, 16, 16) and values.dtype == torch.float32
    assert backbone.encode_images(values[None]).tokens.shape == (1, 4, 32)


@pytest.mark.parametrize("library", ["pil", "torchvision"])
@pytest.mark.parametrize(("family", "seen"), [("clip", (50, 1)), ("siglip", (6000, 1))])
def test_clip_sees_the_centre_of_a_thin_image_without_its_ends(
    family, seen, library, request, monkeypatch
):
    folder, strip, sizes = str(request.getfixturevalue(family)), photo(6000, 1), []
    backbone = HuggingFaceBackbone(pretrained=folder, image_library=library)
    processor, process = backbone.image_processor, type(backbone.image_processor).__call__
    expected = processor(strip, return_tensors="pt")["pixel_values"][0]

    def recorded(self, image, **options):
        sizes.append(image.size)
        return process(self, image, **options)

    monkeypatch.setattr(type(processor), "__call__", recorded)
    torch.testing.assert_close(backbone.preprocess(strip), expected, rtol=0, atol=0.05)
    backbone.preprocess(photo())
    assert sizes == [seen, photo().size]


def test_a_folder_without_image_processor_uses_the_family_defaults(tmp_path, caplog):
    folder = save_siglip(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    values = HuggingFaceBackbone(pretrained=str(folder)).preprocess(photo())
    assert values.shape == (3, 16, 16)
    assert "no preprocessor_config.json" in caplog.text


def test_backbone_is_frozen_and_stays_in_evaluation_mode(clip):
    backbone = HuggingFaceBackbone(pretrained=str(clip)).train()
    assert not backbone.training and not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.encode_images(pixels()).tokens.requires_grad


def test_identity_tells_weights_layers_and_pixels_apart(clip, tmp_path):
    backbone = HuggingFaceBackbone(pretrained=str(clip))
    same = HuggingFaceBackbone(pretrained=str(clip), layer=2)
    assert backbone.identity() == same.identity()
    other_layer = HuggingFaceBackbone(pretrained=str(clip), layer="last_hidden_state")
    other_weights = HuggingFaceBackbone(pretrained=str(save_clip(tmp_path, seed=1)))
    assert _differing(backbone.identity(), other_layer.identity()) == {"layer"}
    assert _differing(backbone.identity(), other_weights.identity()) == {"weights"}
    assert _differing(backbone.text_identity(), other_weights.text_identity()) == {"weights"}


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "nowhere", "a/b/c"])
def test_a_missing_folder_is_named_with_what_to_do(name):
    with pytest.raises(EdjeError, match=rf"'{name}' is not there.*Give the folder's path"):
        HuggingFaceBackbone(pretrained=name)


def test_a_hub_name_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EdjeError, match=r"'nobody/nothing'.*hf download"):
        HuggingFaceBackbone(pretrained="nobody/nothing")


def test_an_empty_folder_is_an_error_of_the_user(tmp_path):
    with pytest.raises(EdjeError, match="can't load the configuration"):
        HuggingFaceBackbone(pretrained=str(tmp_path))


def test_a_tokenizer_that_needs_another_package_names_the_extra(siglip, monkeypatch):
    """What transformers raises for SigLIP's own tokenizer where sentencepiece is missing."""

    def missing(*args, **kwargs):
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library\nand so on")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(EdjeError, match=r"tokenizer of .*SentencePiece library.*edje\[siglip\]"):
        HuggingFaceBackbone(pretrained=str(siglip))


def test_a_model_of_another_family_is_refused(tmp_path):
    encoder_config().save_pretrained(tmp_path)
    with pytest.raises(EdjeError, match="'bert' model; expected one of clip, siglip"):
        HuggingFaceBackbone(pretrained=str(tmp_path))


@pytest.mark.parametrize("layer", [4, -5, "penultimate"])
def test_a_layer_that_is_not_there_is_refused(clip, layer):
    with pytest.raises(EdjeError, match="expected 'auto', 'last_hidden_state' or an index"):
        HuggingFaceBackbone(pretrained=str(clip), layer=layer)


def test_siglip_has_no_class_token_to_keep(siglip):
    with pytest.raises(EdjeError, match="no class token"):
        HuggingFaceBackbone(pretrained=str(siglip), keep_class_token=True)


def _differing(left: dict, right: dict) -> set:
    assert left.keys() == right.keys()
    return {name for name in left if left[name] != right[name]}


@pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixture is not beside the checkout")
def test_tokens_and_image_embedding_equal_the_reference_implementation():
    expected = load_file(PARITY / "expected.safetensors")
    backbone = HuggingFaceBackbone(pretrained=str(PARITY / "vision_tower"))
    encoding = backbone.encode_images(expected["pixel_values"])
    torch.testing.assert_close(encoding.tokens, expected["vision_tokens"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        backbone.project_images(encoding.features),
        expected["image_embedding"],
        rtol=1e-5,
        atol=1e-5,
    )

"""Backbones by their hub names, from a cache as the hub's client lays it out, offline.

Repositories hold different files: that of DFN has no preprocessor_config.json.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.sentence import SentenceEncoder
from edje.config.locations import conf_folder, register_resolvers
from edje.errors import EdjeError
from tests.tiny.encoders import tiny_language_model
from tests.tiny.hub_cache import COMMIT, put_into_cache
from tests.tiny.image_files import photo
from tests.tiny.towers import save_clip, save_siglip

DFN = "apple/DFN2B-CLIP-ViT-L-14-39B"
COMPLETE = "openai/clip-vit-large-patch14"
SIDE = 16


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    folder = save_clip(tmp_path_factory.mktemp("clip"), image_size=SIDE)
    put_into_cache(root, DFN, folder, without=("preprocessor_config.json",))
    put_into_cache(root, COMPLETE, folder)
    return root


@pytest.fixture(autouse=True)
def _offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels_of_pil() -> torch.Tensor:
    """CLIP's preprocessing written out: 40 by 30 pixels to 21 by 16, the middle 16 of them."""
    small = photo().resize((21, SIDE), Image.Resampling.BICUBIC).crop((2, 0, 2 + SIDE, SIDE))
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    values = (np.asarray(small) / 255 - mean) / std
    return torch.from_numpy(values).permute(2, 0, 1).float()


def test_the_option_file_loads_from_a_repository_without_image_processor(caplog):
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("run", ["backbone=dfn_l14"]).backbone
    assert node.pretrained == DFN
    backbone = instantiate(node)
    assert f"{DFN} has no preprocessor_config.json" in caplog.text
    assert backbone.encode_images(backbone.preprocess(photo())[None]).tokens.shape == (1, 4, 32)


@pytest.mark.parametrize("name", [DFN, COMPLETE])
def test_pixels_are_those_of_pil_whether_or_not_the_repository_says_how(name):
    found = HuggingFaceBackbone(pretrained=name).preprocess(photo())
    torch.testing.assert_close(found, pixels_of_pil(), rtol=0, atol=1e-5)


def test_both_repositories_give_one_identity():
    one, other = (HuggingFaceBackbone(pretrained=name).identity() for name in (DFN, COMPLETE))
    assert one == other


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_a_folder_without_image_processor_gives_what_one_with_it_gives(save, tmp_path):
    complete = HuggingFaceBackbone(pretrained=str(save(tmp_path)))
    (tmp_path / "preprocessor_config.json").unlink()
    bare = HuggingFaceBackbone(pretrained=str(tmp_path))
    assert torch.equal(bare.preprocess(photo()), complete.preprocess(photo()))
    assert bare.identity() == complete.identity()


def test_pixels_of_torchvision_are_a_choice_that_the_identity_tells():
    """They differ from those of PIL, which stores and checkpoints would otherwise mix up."""
    pil = HuggingFaceBackbone(pretrained=DFN)
    other = HuggingFaceBackbone(pretrained=DFN, image_library="torchvision")
    named = HuggingFaceBackbone(pretrained=COMPLETE, image_library="torchvision")
    assert other.identity() == named.identity() != pil.identity()
    assert torch.equal(other.preprocess(photo()), named.preprocess(photo()))
    assert not torch.equal(other.preprocess(photo()), pil.preprocess(photo()))


def test_a_file_that_the_hub_may_hold_is_not_taken_for_absent(monkeypatch):
    """Online, but the hub can't be reached: other pixels than the repository's would be silent."""

    def out_of_reach(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("edje.backbones.pretrained.hf_hub_download", out_of_reach)
    from edje.backbones.pretrained import has_file

    with pytest.raises(EdjeError, match=rf"preprocessor_config.json of .*{DFN}.*no connection"):
        has_file(DFN, "preprocessor_config.json")


def test_a_file_that_the_cache_knows_to_be_absent_needs_no_connection(hub, monkeypatch):
    def out_of_reach(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("edje.backbones.pretrained.hf_hub_download", out_of_reach)
    from edje.backbones.pretrained import has_file

    marker = hub / f"models--{DFN.replace('/', '--')}" / ".no_exist" / COMMIT / "video.json"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert has_file(DFN, "video.json") is False


def test_a_clip_without_tokenizer_is_refused(tmp_path):
    folder = save_clip(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(EdjeError, match="has no tokenizer: no"):
        HuggingFaceBackbone(pretrained=str(folder))


def test_a_sentence_encoder_without_tokenizer_is_refused(tmp_path):
    tiny_language_model().encoder.save_pretrained(tmp_path)
    with pytest.raises(EdjeError, match="has no tokenizer: no"):
        SentenceEncoder(pretrained=str(tmp_path))

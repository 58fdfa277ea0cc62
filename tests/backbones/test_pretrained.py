"""Loading refuses what isn't whole, runs nothing of others, and says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.pretrained import configuration_facts, tokenizer_digest
from edje.backbones.sentence import SentenceEncoder
from edje.errors import EdjeError
from edje.language_model import pretrained_language_model
from tests.tiny.encoders import encoder_config, tiny_encoder
from tests.tiny.hub_cache import put_into_cache
from tests.tiny.towers import save_clip
from tests.tiny.words import SENTENCE, tiny_tokenizer

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1345\n"
LOADERS: dict[str, Callable[..., Any]] = {
    "clip": HuggingFaceBackbone,
    "sentence": SentenceEncoder,
    "language": pretrained_language_model,
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    clip, bert = save_clip(tmp_path / "clip"), tmp_path / "bert"
    tiny_encoder(pooler=True).save_pretrained(bert)
    tiny_tokenizer().save_pretrained(bert)
    return {"clip": clip, "sentence": bert, "language": bert}


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    return request.param


def rewrite(folder: Path, name: Callable[[str], str | None]) -> None:
    """Give the weights other names, or leave out those without one."""
    state = load_file(folder / WEIGHTS)
    kept = {new: tensor for key, tensor in state.items() if (new := name(key))}
    save_file(kept, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / WEIGHTS)  # a model that was loaded may still map the former


def configure(folder: Path, file: str = "config.json", **changes: Any) -> None:
    """Change a JSON file; a dictionary changes the part of that name."""
    content = json.loads((folder / file).read_text())
    for key, value in changes.items():
        part = content.get(key) or {}
        content[key] = part | value if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(content))


def test_weights_that_a_file_lacks_are_not_drawn_at_random(folders, loader):
    rewrite(folders[loader], lambda name: None if ".1." in name and "fc1" in name else name)
    rewrite(folders[loader], lambda name: None if "layer.1.output.dense" in name else name)
    with pytest.raises(EdjeError, match=r"lacks \d weights of the model, such as \S+\.1\.\S+"):
        LOADERS[loader](pretrained=str(folders[loader]))


def test_a_file_with_other_names_is_told_by_one_of_them(folders, loader):
    rewrite(folders[loader], lambda name: f"visual.{name}")
    with pytest.raises(EdjeError, match=r"lacks .*has \d+ others, such as visual\."):
        LOADERS[loader](pretrained=str(folders[loader]))


def test_weights_that_nothing_reads_may_be_missing(folders):
    rewrite(folders["clip"], lambda name: None if name == "logit_scale" else name)
    HuggingFaceBackbone(pretrained=str(folders["clip"]))
    rewrite(folders["language"], lambda name: None if "layer.1." in name else name)
    pretrained_language_model(pretrained=str(folders["language"]), num_layers=1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_sentence_encoder_without_pooler_is_the_same_at_every_load(family, tmp_path):
    tiny_encoder(family, pooler=True).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    whole = SentenceEncoder(pretrained=str(tmp_path))
    assert whole.model.pooler is not None  # its digest stays what it was
    rewrite(tmp_path, lambda name: None if "pooler" in name else name)
    one, other = (SentenceEncoder(pretrained=str(tmp_path)) for _ in range(2))
    assert one.text_identity() == other.text_identity()
    assert torch.equal(one.encode_texts(["a dog"]), whole.encode_texts(["a dog"]))


def test_code_of_a_repository_is_neither_run_nor_asked_about(
    folders, loader, tmp_path, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda _: "y")
    folder, ran = folders[loader], tmp_path / "ran"
    configure(folder, model_type="mine", auto_map={"AutoConfig": "code.Mine"})
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(EdjeError, match="has code of its own, which is never run here"):
        LOADERS[loader](pretrained=str(folder))
    assert not ran.exists()


@pytest.mark.parametrize("content", [POINTER.encode(), b"", b"cut"])
def test_a_damaged_file_says_that_it_is_to_be_downloaded_again(content, folders, loader):
    file = folders[loader] / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000] if content == b"cut" else content)
    with pytest.raises(EdjeError, match=r"damaged, a pointer of git-lfs.*Download it again"):
        LOADERS[loader](pretrained=str(folders[loader]))


@pytest.mark.parametrize("content", [POINTER.encode(), b"", b"cut", b"objects"])
def test_a_damaged_pickle_never_suggests_to_trust_it(content, folders):
    folder = folders["clip"]
    file, state = folder / "pytorch_model.bin", load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save({"path": Path()} if content == b"objects" else state, file)
    if content != b"objects":
        file.write_bytes(file.read_bytes()[:-3000] if content == b"cut" else content)
    with pytest.raises(EdjeError, match="Download it again") as told:
        HuggingFaceBackbone(pretrained=str(folder))
    assert "weights_only" not in str(told.value)


def test_weights_of_another_size_are_named(folders, loader):
    changes = {"vision_config": {"image_size": 32}} if loader == "clip" else {"vocab_size": 99}
    configure(folders[loader], **changes)
    with pytest.raises(EdjeError, match=r"1 weights don't fit .*embedding\S*: \(.*expected \("):
        LOADERS[loader](pretrained=str(folders[loader]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"image_size": [16, 16]}, r"image_size=\[16, 16\]; expected one number"),
        ({"patch_size": [8, 8]}, r"patch_size=\[8, 8\]; expected one number"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"hidden_act": "unknown"}, "can't load the weights .*unknown"),
    ],
)
def test_a_configuration_that_no_tower_has_is_an_error_of_the_user(part, message, folders):
    configure(folders["clip"], vision_config=part)
    with pytest.raises(EdjeError, match=message):
        HuggingFaceBackbone(pretrained=str(folders["clip"]))


@pytest.mark.parametrize("loader", ["clip", "sentence"], indirect=True)
def test_a_tokenizer_without_pad_token_is_refused_when_it_is_loaded(folders, loader):
    configure(folders[loader], "tokenizer_config.json", pad_token=None)
    with pytest.raises(EdjeError, match="no pad token"):
        LOADERS[loader](pretrained=str(folders[loader]))


def test_a_revision_may_have_slashes(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = put_into_cache(tmp_path, "some/clip", folders["clip"])
    reference = snapshot.parents[1] / "refs" / "refs" / "pr" / "3"
    reference.parent.mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").rename(reference)
    assert HuggingFaceBackbone(pretrained="some/clip@refs/pr/3").num_tokens == 4


VISION_CHANGES = {"hidden_act": "gelu", "layer_norm_eps": 0.1, "num_attention_heads": 2}


@pytest.mark.parametrize("name", VISION_CHANGES)
def test_image_tokens_of_another_configuration_have_another_identity(name, folders):
    pixels = torch.rand(1, 3, 16, 16)
    before = HuggingFaceBackbone(pretrained=str(folders["clip"]))
    configure(folders["clip"], vision_config={name: VISION_CHANGES[name]})
    after = HuggingFaceBackbone(pretrained=str(folders["clip"]))
    assert not torch.equal(*(one.encode_images(pixels).tokens for one in (before, after)))
    assert before.identity() != after.identity()
    assert before.text_identity() == after.text_identity()


@pytest.mark.parametrize("name", ["hidden_act", "layer_norm_eps", "eos_token_id"])
def test_captions_of_another_configuration_have_another_identity(name, folders):
    before = HuggingFaceBackbone(pretrained=str(folders["clip"]))
    value = 4 if name == "eos_token_id" else VISION_CHANGES[name]
    configure(folders["clip"], text_config={name: value})
    after = HuggingFaceBackbone(pretrained=str(folders["clip"]))
    assert before.text_identity() != after.text_identity()
    assert before.identity() == after.identity()


def test_a_sentence_encoder_of_another_configuration_has_another_identity(folders):
    before = SentenceEncoder(pretrained=str(folders["sentence"])).text_identity()
    configure(folders["sentence"], num_attention_heads=1)
    after = SentenceEncoder(pretrained=str(folders["sentence"])).text_identity()
    assert {name for name in before if before[name] != after[name]} == {"configuration"}


@pytest.mark.parametrize("loader", ["clip", "sentence"], indirect=True)
def test_another_tokenizer_makes_another_identity_of_captions(folders, loader):
    folder = str(folders[loader])
    before = LOADERS[loader](pretrained=folder).text_identity()
    assert LOADERS[loader](pretrained=folder).text_identity() == before
    known = AutoTokenizer.from_pretrained(folder).get_vocab()
    words = [word for word in reversed(known) if not word.startswith("[")]
    tiny_tokenizer(words).save_pretrained(folder)
    after = LOADERS[loader](pretrained=folder).text_identity()
    assert {name for name in before if before[name] != after[name]} == {"tokenizer"}


def test_a_tokenizers_digest_follows_what_it_does_to_captions_not_its_state():
    cased, lowering = tiny_tokenizer(SENTENCE), tiny_tokenizer(SENTENCE, lower_case=True)
    before = tokenizer_digest(cased)
    cased(["a dog", "a"], padding="longest", truncation=True, max_length=8)
    assert tokenizer_digest(cased) == before != tokenizer_digest(lowering)


def test_the_facts_of_a_configuration_are_the_named_ones_alone():
    config = encoder_config(initializer_range=0.5)
    facts = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 2}
    assert json.loads(configuration_facts(config)) == facts
    assert json.loads(configuration_facts(config, "pad_token_id", crop_pct=None)) == facts | {
        "pad_token_id": config.pad_token_id
    }


def test_pixels_that_are_padded_have_another_identity(folders):
    folder = str(folders["clip"])
    before = HuggingFaceBackbone(pretrained=folder).identity()
    sizes = []
    for side in (24, 32):
        padding = {"do_pad": True, "pad_size": {"height": side, "width": side}}
        configure(folders["clip"], "preprocessor_config.json", **padding)
        sizes.append(HuggingFaceBackbone(pretrained=folder).identity()["configuration"])
    assert len({before["configuration"], *sizes}) == 3


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_captions_are_cut_where_a_position_table_with_a_row_for_pads_ends(family, tmp_path):
    torch.manual_seed(0)
    tiny_encoder(family, max_position_embeddings=12).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    whole = SentenceEncoder(pretrained=str(tmp_path), max_length=12)
    shorter = SentenceEncoder(pretrained=str(tmp_path), max_length=11)
    long = ["dog " * 40]
    assert torch.equal(whole.encode_texts(long), shorter.encode_texts(long))
    assert whole.text_identity()["max_length"] == 12  # in tables made before

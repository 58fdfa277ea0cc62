"""Backbones by name, without Hydra: the values of a run, and nothing that isn't ours."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

import edje
from edje import registry
from edje.backbones.loading import built_from, load_backbone
from edje.backbones.option_values import option_values, resolved, with_given
from edje.config.locations import register_resolvers
from edje.errors import EdjeError
from edje.identity import canonical_identity
from edje.inference.reranker import Reranker
from edje.installed import conf_folder
from tests.tiny.encoders import tiny_encoder
from tests.tiny.towers import save_siglip

OPTIONS = sorted(file.stem for file in (conf_folder() / "backbone").glob("*.yaml"))
TIMM = "edje.backbones.timm_backbone.TimmBackbone"
SENTENCE = "edje.backbones.sentence.SentenceEncoder"
HUGGING_FACE = "edje.backbones.huggingface.HuggingFaceBackbone"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("tower"))


def composed(option: str, *overrides: str) -> Any:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("run", [f"backbone={option}", *overrides])


@pytest.mark.parametrize("option", OPTIONS)
def test_an_options_values_are_those_that_hydra_composes(option: str) -> None:
    values = option_values(option)
    given = {"checkpoint": "weights"} if "checkpoint" in values else {}
    cfg = composed(option, *(f"backbone.{key}={value}" for key, value in given.items()))
    expected = OmegaConf.to_container(cfg, resolve=True)["backbone"]
    assert resolved(with_given(values, given), option) == expected


def test_numbers_are_those_of_hydra() -> None:
    assert option_values("mobilenetv2_aligned")["learning_rate"] == 5e-4


def test_it_is_the_encoder_that_a_run_builds(tower: Path) -> None:
    loaded = load_backbone("siglip2_b16_384", pretrained=str(tower))
    cfg = composed("siglip2_b16_384", f"backbone.pretrained={tower}")
    run = instantiate(cfg.backbone)
    assert loaded.identity() == run.identity()
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded.encode_images(pixels).tokens, run.encode_images(pixels).tokens)


def test_a_towers_folder_may_be_a_path_and_no_bar_is_drawn_while_it_loads(
    tower: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_backbone("siglip2_b16_384", pretrained=tower)
    assert capsys.readouterr().err == ""
    assert loaded.identity() == load_backbone("siglip2_b16_384", pretrained=str(tower)).identity()


def test_a_saved_mapping_builds_its_nested_towers_under_former_names(
    tower: Path, tmp_path: Path
) -> None:
    model = timm.create_model("mobilenetv2_035", pretrained=False)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    vision = {
        "_target_": "edje.backbones.timm.TimmBackbone",  # as version 0.1.0 called it
        "model": "mobilenetv2_035",
        "checkpoint": "${backbone.checkpoint}",
        "image_size": 32,
    }
    text = save_sentence_encoder(tmp_path / "words", tower)
    saved = {
        "_target_": "edje.backbones.aligned.AlignedBackbone",
        "checkpoint": str(tmp_path / "weights.safetensors"),
        "vision": vision,
        "text": {"_target_": SENTENCE, "pretrained": str(text)},
        "embedding_width": 8,
    }
    loaded: Any = load_backbone(saved, vision={"image_size": 64}, text_shrinkage=2.0)
    assert (loaded.num_tokens, loaded.vision.image_size) == (4, 64)
    assert loaded.shrinkage == (3.0, 2.0) and not loaded.training
    assert saved["vision"] is vision and vision["image_size"] == 32  # what was given is unchanged


def test_a_checkpoints_configuration_gives_the_encoder_that_it_reads() -> None:
    made = Path(__file__).parents[1] / "formats" / "0.1.0"
    checkpoint = Reranker.from_pretrained(made / "checkpoints" / "joint.ckpt").checkpoint
    saved = yaml.safe_load(checkpoint.config)["backbone"]
    loaded = load_backbone(saved, pretrained=str(made / "tower"))  # it was a relative path
    now = canonical_identity(loaded.identity())
    assert checkpoint.backbone | {"configuration": now["configuration"]} == now


def save_sentence_encoder(folder: Path, tokenizer_of: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    tiny_encoder(pooler=True, vocab_size=len(tokenizer), **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("choice", [None, Path("shapes")])
def test_what_is_neither_a_name_nor_a_mapping_is_refused(choice: Any) -> None:
    with pytest.raises(EdjeError, match="expected an option's name or a mapping"):
        load_backbone(choice)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(EdjeError, match="pretrained='' is not there; expected a folder"):
        load_backbone("siglip2_b16_384", pretrained="")


def test_an_unknown_option_is_told_the_nearest() -> None:
    with pytest.raises(EdjeError, match=r"Did you mean siglip2_b16_384\?"):
        load_backbone("siglip2_b16_834")
    with pytest.raises(EdjeError, match="no such option"):
        load_backbone("../backbone/shapes")


def test_a_value_that_must_be_given_is_asked_for() -> None:
    with pytest.raises(EdjeError, match=r"checkpoint has no value\. Set it: checkpoint="):
        load_backbone("mobilenetv2_aligned")


@pytest.mark.parametrize(
    "text", ["${data.root}", "${backbone.other}", "${oc.env:HOME}", "${backbone.pretrained}", "${}"]
)
def test_an_interpolation_that_stands_for_nothing_is_named(text: str) -> None:
    with pytest.raises(EdjeError, match=r"pretrained is \$\{.*can't be resolved"):
        load_backbone({"_target_": HUGGING_FACE, "pretrained": text})


def test_interpolations_reach_into_texts_and_follow_each_other() -> None:
    values = {"a": "${backbone.b.0}", "b": {"0": "${backbone.c}"}, "c": 5, "d": "x${backbone.c}y"}
    assert resolved(values, "here") == {"a": 5, "b": {"0": 5}, "c": 5, "d": "x5y"}


@pytest.mark.parametrize(
    "target",
    [
        "this.Antigravity",
        "os.system",
        "edje.backbones.pretrained.load_pretrained",
        "edje.backbones.huggingface.AutoModel",
        "edje.backbones.timm_backbone.Path",
        "edje.models.edje.EDJE",
        "edje.backbones..timm_backbone.TimmBackbone",
        "TimmBackbone",
        "",
    ],
)
def test_nothing_is_built_or_imported_that_is_no_encoder_of_ours(target: str) -> None:
    for mapping in (
        {"_target_": target},
        {"_target_": HUGGING_FACE, "pretrained": {"_target_": target}},
    ):
        with pytest.raises(EdjeError, match=r"is not a backbone of edje|is not a frozen encoder"):
            load_backbone(mapping)
    assert "this" not in sys.modules


def test_a_misspelt_target_is_told_the_nearest() -> None:
    with pytest.raises(EdjeError, match=r"Did you mean edje\.backbones\.huggingface\.X\?"):
        load_backbone({"_target_": "edje.backbones.hugging_face.X"})
    with pytest.raises(EdjeError, match=r"timm_backbone has TimmBackbone"):
        load_backbone({"_target_": TIMM + "s"})


def test_values_that_the_constructor_doesnt_take_or_misses_are_named(tower: Path) -> None:
    with pytest.raises(
        EdjeError, match=r"HuggingFaceBackbone has no layers\. Its parameters: pret"
    ):
        load_backbone("siglip2_b16_384", pretrained=str(tower), layers=3)
    with pytest.raises(EdjeError, match="TimmBackbone needs model"):
        load_backbone({"_target_": TIMM})
    with pytest.raises(EdjeError, match="expected a key _target_, got none"):
        load_backbone({})


def test_one_tower_is_no_dual_encoder(tmp_path: Path, tower: Path) -> None:
    text = save_sentence_encoder(tmp_path / "words", tower)
    with pytest.raises(EdjeError, match="SentenceEncoder is one tower of a dual encoder"):
        load_backbone({"_target_": SENTENCE, "pretrained": str(text)})


def test_an_option_that_needs_composing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backbone").mkdir()
    file = tmp_path / "backbone" / "mine.yaml"
    monkeypatch.setattr("edje.backbones.option_values.conf_folder", lambda: tmp_path)
    file.write_text(yaml.safe_dump({"defaults": ["clip_b16"], "layer": 3}))
    with pytest.raises(EdjeError, match="without a defaults list"):
        load_backbone("mine")
    file.write_text("a: [1")
    with pytest.raises(EdjeError, match=r"mine\.yaml is not valid YAML"):
        load_backbone("mine")


class Numbers:
    """A backbone by the protocol alone, which is no module."""

    def __init__(self, *, width: int = 3, unused: Any = None):
        self.token_width = width

    def encode_images(self, pixels: Any) -> None: ...

    def encode_texts(self, texts: Any) -> None: ...

    project_images = project_texts = identity = text_identity = preprocess = encode_texts


def test_a_backbone_that_fulfils_the_protocol_needs_not_be_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    edje.register_backbone("numbers")(Numbers)
    built: Any = load_backbone({"_target_": "numbers", "width": 5})
    assert isinstance(built, Numbers) and built.token_width == 5


def test_it_knows_the_values_that_it_was_built_from(tower: Path) -> None:
    loaded = load_backbone("siglip2_b16_384", pretrained=tower)
    values = built_from(loaded)
    assert values is not None and values["pretrained"] == str(tower)
    assert load_backbone(values).identity() == loaded.identity()
    other: Any = Numbers()
    assert built_from(other) is None

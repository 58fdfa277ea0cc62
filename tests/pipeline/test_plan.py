"""Claims about what a run is said to need, on figures worked by hand."""

from dataclasses import replace

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification
from edje.models.joint_options import PLAIN
from edje.pipeline.known_models import CLIPS, LANGUAGE_MODELS, SIGLIPS, known_configuration
from edje.pipeline.model_sizes import WORDS, Towers, configuration, counted_sizes, kept_bytes
from edje.pipeline.plan import Sizes, Work, plan
from tests.tiny.encoders import encoder_config
from tests.tiny.towers import siglip_config

SIZES = Sizes(
    image_flops=1000,
    text_flops=100,
    adapter_flops=50,
    pair_flops=10,
    alone_flops=4,
    words_flops=3,
    teacher_flops=40,
    teacher_adapter_flops=60,
    raw_bytes=2000,
    compressed_bytes=80,
    embedding_bytes=16,
    tokens_bytes=4000,
    kept_pair_bytes=7,
    kept_image_bytes=9,
    trained_weights=30,
    tower_weights=500,
    teacher_weights=20,
)
WORK = Work(
    train_images=20,
    train_captions=100,
    evaluated_images=5,
    evaluated_captions=25,
    candidates=4,
    steps=10,
    pairs=8,
    batch=4,
    devices=2,
    negatives=3,
    parts=frozenset({"pairs", "masked", "text_only", "teacher"}),
    streamed=False,
    recomputed=False,
)


def values(work: Work = WORK) -> dict[str, int]:
    return {f"{line.kind}: {line.what}": line.value for line in plan(work, SIZES).lines}


def test_every_line_is_the_product_that_it_shows() -> None:
    """Ten steps of 8 pairs on two devices are 160 pairs, each with 2 × 3 negatives."""
    assert values() == {
        "disk: raw tokens, train": 20 * 2000,
        "disk: embeddings, train": 20 * 16,
        "disk: caption features, train": 100 * 16,
        "disk: raw tokens, evaluated": 5 * 2000,
        "disk: embeddings, evaluated": 5 * 16,
        "disk: caption features, evaluated": 25 * 16,
        "disk: compressed tokens, evaluated (task=compress)": 5 * 80,
        "disk: checkpoints/last.ckpt": 30 * 12,
        "disk: checkpoints/model.ckpt": 30 * 4,
        "memory: weights, gradients, AdamW": 30 * 16,
        "memory: teacher": 20 * 4,
        "memory: vision tokens": 4 * 4000,
        "memory: kept for the backward pass, pairs": 4 * 8 * 7,
        "memory: kept for the backward pass, adapter": 4 * 9,
        "compute: encode images, train": 20 * 1000,
        "compute: encode captions, train": 100 * 100,
        "compute: encode images, evaluated": 5 * 1000,
        "compute: encode captions, evaluated": 25 * 100,
        "compute: train: joint encoder": 160 * 8 * 3 * 10,
        "compute: train: adapter": 160 * 3 * 50,
        "compute: train: masked-language head": 160 * 3 * 3,
        "compute: train: text alone": 160 * 3 * 4,
        "compute: train: teacher's joint encoder": 160 * 7 * 40,
        "compute: train: teacher's adapter": 160 * 60,
        "compute: evaluate: adapter": 5 * 50,
        "compute: evaluate: joint encoder": 30 * 4 * 10,
    }


def test_streaming_runs_both_towers_at_every_pair_and_keeps_them_on_the_device() -> None:
    streamed = values(replace(WORK, streamed=True, train_images=2, train_captions=10))
    assert streamed["compute: train: vision tower"] == 160 * 1000
    assert streamed["compute: train: text tower"] == 160 * 100
    assert streamed["memory: frozen towers"] == 500 * 4
    assert streamed["disk: raw tokens, dev"] == 2 * 2000


def test_recomputing_layers_is_a_forward_pass_more_and_keeps_nothing() -> None:
    again = values(replace(WORK, recomputed=True))
    assert again["compute: train: joint encoder"] == 160 * 8 * 4 * 10
    assert not [what for what in again if "kept for" in what]


def test_without_terms_that_read_pairs_only_the_masked_captions_are_fused() -> None:
    lone = values(replace(WORK, parts=frozenset({"masked"})))
    assert lone["compute: train: joint encoder"] == 160 * 1 * 3 * 10
    assert "memory: teacher" not in lone and "compute: train: text alone" not in lone


def test_the_arithmetic_is_written_out_and_summed() -> None:
    images = replace(WORK, train_images=113_287)
    planned = plan(images, replace(SIZES, raw_bytes=1_179_648), ["a note"])
    assert planned.lines[0].arithmetic == "113,287 train images × 1,179,648 bytes = 134 GB"
    report = planned.report()
    assert report["flops"] == sum(
        line["value"] for line in report["lines"] if line["kind"] == "compute"
    )
    assert report["gpu_hours"] == report["flops"] / 2e14 / 3600
    assert report["notes"] == ["a note"]


def tower(width: int, layers: int) -> dict[str, int]:
    return {
        **{"hidden_size": width, "num_hidden_layers": layers},
        **{"num_attention_heads": 2, "intermediate_size": 3 * width},
    }


def layer_flops(length: int, width: int, hidden: int) -> int:
    """Four projections, two of the MLP, and the two products of attention."""
    return 2 * length * (4 * width * width + 2 * width * hidden) + 2 * 2 * length**2 * width


def test_models_are_counted_as_by_hand_and_hold_no_weights() -> None:
    width, hidden = 8, 32
    towers = Towers(
        siglip_config(
            vision=tower(16, 3) | {"image_size": 32, "patch_size": 8},
            text=tower(16, 2) | {"max_position_embeddings": 16, "projection_size": 16},
        )
    )
    assert {weight.device.type for weight in towers.model.parameters()} == {"meta"}
    assert (towers.facts.num_tokens, towers.facts.token_width) == (16, 16)
    model = encoder_config(
        vocab_size=50, hidden_size=width, num_hidden_layers=2, intermediate_size=hidden
    )
    adapter = AdapterSpecification("edje.models.adapters.SubsamplingAdapter", {"num_tokens": 4})
    sizes = counted_sizes(towers, model, adapter, PLAIN, "bf16", "fp8")
    length = WORDS + 4 + 1  # and the final [SEP]
    assert sizes.pair_flops == 2 * layer_flops(length, width, hidden)
    assert sizes.teacher_flops == 2 * layer_flops(WORDS + 16 + 1, width, hidden)
    assert sizes.alone_flops == 2 * layer_flops(WORDS, width, hidden)
    assert sizes.adapter_flops == 2 * 4 * (16 * 8192 + 8192 * width)
    assert sizes.teacher_adapter_flops == 2 * 16 * (16 * 8192 + 8192 * width)
    assert sizes.words_flops == 2 * (WORDS // 2) * (width * width + width * 50)
    assert sizes.text_flops == 2 * layer_flops(16, 16, 48) + 2 * 16 * 16  # and the projection
    patches = 2 * 16 * (3 * 8 * 8) * 16
    layers = 3 * layer_flops(16, 16, 48)
    # One query attends to all: its projection in and out, keys and values, two products, an MLP.
    pooling = 2 * 2 * 16 * 16 + 2 * 2 * 16 * 16 * 16 + 2 * 2 * 16 * 16 + 2 * 2 * 16 * 48
    assert sizes.image_flops == patches + layers + pooling
    assert (sizes.raw_bytes, sizes.compressed_bytes) == (16 * 16 * 2, 4 * (width + 4))


def test_a_language_model_without_sdpa_is_counted_too() -> None:
    config = siglip_config(vision=tower(16, 1) | {"image_size": 16, "patch_size": 8}, text={})
    adapter = AdapterSpecification("edje.models.adapters.SubsamplingAdapter", {"num_tokens": 4})
    model = encoder_config("mpnet")
    sizes = counted_sizes(Towers(config), model, adapter, PLAIN, "bf16", "fp8")
    layers = 2 * layer_flops(WORDS + 4 + 1, 32, 64)
    assert layers <= sizes.pair_flops < 1.1 * layers


def test_kept_bytes_are_those_of_saved_tensors_each_once() -> None:
    module = torch.nn.Linear(3, 5)
    given = torch.randn(2, 3)
    assert kept_bytes(lambda: module(given), module) == 2 * 3 * 4
    assert kept_bytes(lambda: module(given).exp(), module) == 2 * 3 * 4 + 2 * 5 * 4
    assert kept_bytes(lambda: module(given), module, lambda shape: shape == (2, 3)) == 0


@pytest.mark.parametrize("name", [*CLIPS, *SIGLIPS, *LANGUAGE_MODELS])
def test_a_model_of_the_options_is_known_where_its_configuration_is_not_at_hand(name: str) -> None:
    known = known_configuration(name, "backbone.pretrained")
    assert known.model_type in ("clip", "siglip", "bert", "modernbert")


def test_a_model_that_nobody_knows_is_an_error_that_says_what_to_fetch() -> None:
    notes: list[str] = []
    with pytest.raises(EdjeError, match="hf download"):
        configuration("nobody/nothing", "joint.pretrained", notes)
    assert not notes

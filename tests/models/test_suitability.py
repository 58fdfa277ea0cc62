"""Which language models can be the joint encoder, told on a trial of two texts and images."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from edje.errors import EdjeError
from edje.models.joint_encoder import JointEncoder
from edje.models.suitability import why_unsuitable
from tests.tiny.encoders import ENDS, FAMILIES, SIZES, tiny_encoder
from tests.tiny.words import SEP

READS_PADDING = {"convbert": {"embedding_size": 32}, "fnet": {}, "yoso": {}}
DECODERS = {
    "gpt2": {"n_embd": 32, "n_head": 2, "n_layer": 2},
    "llama": {},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 2},
    "gemma3_text": {"head_dim": 16, "num_key_value_heads": 1},
    "modernbert-decoder": {},
}
TWO_WIDTHS = {"electra": {"embedding_size": 16}, "albert": {"embedding_size": 16}}


def made(family: str, deviation: float = 0.2, **sizes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    drawn = SIZES | ENDS | {"initializer_range": deviation} | sizes
    return AutoModel.from_config(AutoConfig.for_model(family, **drawn))


@pytest.mark.parametrize("deviation", [0.02, 0.2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bidirectional_encoder_fits_and_stays_as_it_was(family, deviation):
    torch.manual_seed(0)
    encoder = tiny_encoder(family, initializer_range=deviation)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config, drawn = encoder.config.to_dict(), torch.get_rng_state()
    assert why_unsuitable(encoder, SEP) is None
    assert torch.equal(torch.get_rng_state(), drawn) and encoder.config.to_dict() == config
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in encoder.modules())
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert why_unsuitable(encoder.eval(), SEP) is None and not encoder.training


@pytest.mark.parametrize("family", READS_PADDING)
def test_one_that_reads_padding_is_found(family):
    encoder, drawn = made(family, **READS_PADDING[family]), torch.get_rng_state()
    assert "padding changes the state of [CLS] by" in str(why_unsuitable(encoder, SEP))
    assert torch.equal(torch.get_rng_state(), drawn)  # YOSO draws its hashes


@pytest.mark.parametrize("deviation", [0.02, 0.2])
@pytest.mark.parametrize("family", DECODERS)
def test_one_whose_cls_sees_no_image_is_found(family, deviation):
    encoder = made(family, deviation, **DECODERS[family])
    assert "doesn't depend on the image" in str(why_unsuitable(encoder, SEP))


def test_states_that_are_no_numbers_are_found():
    encoder = tiny_encoder()
    torch.nn.init.constant_(encoder.encoder.layer[1].output.dense.weight, torch.nan)
    assert why_unsuitable(encoder, SEP) == "its states aren't finite"


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("family", TWO_WIDTHS)
def test_word_embeddings_of_another_width_than_the_states_are_refused(family, device):
    with torch.device(device):
        encoder = made(family, **TWO_WIDTHS[family])
        with pytest.raises(EdjeError, match=r"Model can't be .* have 16 numbers, states 32\. Use"):
            JointEncoder(encoder, SEP, 63, 4)

"""SentenceEncoder is mean pooling over the words of a caption."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from edje.backbones.sentence import SentenceEncoder
from edje.errors import EdjeError
from tests.tiny.encoders import tiny_encoder
from tests.tiny.words import SENTENCE, tiny_tokenizer

CAPTIONS = ["a brown dog runs in the snow", "the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(SENTENCE, lower_case=True)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "max_position_embeddings": 16}
    tiny_encoder(pooler=True, vocab_size=len(tokenizer), **sizes).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_features_are_the_normalised_mean_over_the_words(folder):
    encoder = SentenceEncoder(pretrained=str(folder))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    features = encoder.encode_texts(CAPTIONS)
    assert features.shape == (2, encoder.text_width) == (2, 24)
    for row, caption in enumerate(CAPTIONS):
        with torch.no_grad():
            states = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state
        mean = torch.nn.functional.normalize(states[0].mean(0), dim=0)
        torch.testing.assert_close(features[row], mean, rtol=1e-4, atol=1e-5)


def test_long_captions_are_cut(folder):
    encoder = SentenceEncoder(pretrained=str(folder))
    assert encoder.max_length == 16  # the position table's end
    torch.testing.assert_close(
        encoder.encode_texts(["dog " * 14]), encoder.encode_texts(["dog " * 60])
    )


def test_identity_follows_the_weights_and_the_length(folder):
    identity = SentenceEncoder(pretrained=str(folder)).text_identity()
    assert identity == SentenceEncoder(pretrained=str(folder)).text_identity()
    shorter = SentenceEncoder(pretrained=str(folder), max_length=8).text_identity()
    assert {key for key in identity if identity[key] != shorter[key]} == {"max_length"}


def test_encoder_is_frozen(folder):
    encoder = SentenceEncoder(pretrained=str(folder)).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_missing_folder_says_what_to_do():
    with pytest.raises(EdjeError, match=r"'/nowhere' is not there.*Give the folder's path"):
        SentenceEncoder(pretrained="/nowhere")

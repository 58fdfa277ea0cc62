import math

import pytest
import torch
from torch import nn

from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification, build_reranker
from edje.models.adapters import BackboneFacts, LocalAdapter, TokenCompressionAdapter
from edje.models.heads import FirstStageResidual, MatchHead, late_interaction
from edje.models.joint_encoder import JointEncoder
from edje.models.joint_options import JointOptions
from edje.records import TextBatch
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import COMPRESSION, FACTS, LOCAL, tiny_reranker


def score(model, batch, rows=slice(None), length=None):
    text = TextBatch(batch.text.input_ids[rows, :length], batch.text.attention_mask[rows, :length])
    return model.score(text, model.compress(batch.tokens[rows]), "t2i")


@pytest.mark.parametrize("fusion_layer", [0, 1])
def test_padding_never_changes_a_score(fusion_layer, pairs):
    reranker = tiny_reranker(fusion_layer=fusion_layer)
    ids, mask = pairs.text.input_ids, pairs.text.attention_mask
    longer = TextBatch(nn.functional.pad(ids, (0, 7)), nn.functional.pad(mask, (0, 7)))
    visual = reranker.compress(pairs.tokens)
    torch.testing.assert_close(
        reranker.score(longer, visual, "t2i"),
        reranker.score(pairs.text, visual, "t2i"),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_batch_neighbour_never_changes_a_score(reranker, pairs):
    together = score(reranker, pairs)
    for row in range(len(together)):
        length = int(pairs.text.attention_mask[row].sum())
        alone = score(reranker, pairs, slice(row, row + 1), length)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


def test_the_image_matters_to_the_score(reranker, pairs):
    visual = reranker.compress(pairs.tokens)
    assert not torch.allclose(
        reranker.score(pairs.text, visual, "t2i"),
        reranker.score(pairs.text, visual.roll(1, 0), "t2i"),
    )


def test_the_joint_encoder_reads_the_sequence_that_the_paper_describes(pairs):
    """The module's own assembly against ids and embeddings laid out by hand, one pair at a time."""
    language_model = tiny_language_model()
    encoder, separator = language_model.encoder.eval(), 3
    joint = JointEncoder(encoder, separator, 63, 4).eval()
    visual = torch.randn(len(pairs.sample_ids), 4, 32)
    hidden = joint(pairs.text.input_ids, pairs.text.attention_mask, visual)
    table = encoder.get_input_embeddings().weight
    for row, caption in enumerate(pairs.text.input_ids):
        words = caption[pairs.text.attention_mask[row]]
        sequence = torch.cat([table[words], visual[row], table[[separator]]])
        segments = torch.tensor([0] * len(words) + [1] * 5)
        expected = encoder(
            inputs_embeds=sequence[None],
            token_type_ids=segments[None],
            position_ids=torch.arange(len(sequence))[None],
        ).last_hidden_state[0]
        torch.testing.assert_close(hidden[row, 0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(hidden[row, -5:], expected[-5:], rtol=1e-5, atol=1e-5)


def test_below_the_fusion_layer_the_text_runs_alone(pairs):
    """Against transformers' own hidden states of the text, continued by hand, pair by pair."""
    language_model = tiny_language_model()
    encoder = language_model.encoder.eval()
    joint = JointEncoder(encoder, 3, 63, 4, JointOptions(1)).eval()
    nn.init.normal_(joint.visual_type)
    nn.init.normal_(joint.entry_norm.weight)
    visual = torch.randn(len(pairs.sample_ids), 4, 32)
    hidden = joint(pairs.text.input_ids, pairs.text.attention_mask, visual)
    for row, caption in enumerate(pairs.text.input_ids):
        words = caption[pairs.text.attention_mask[row]]
        alone = encoder(words[None], output_hidden_states=True).hidden_states[1][0]
        entering = joint.entry_norm(visual[row]) + joint.visual_type
        expected = encoder.encoder.layer[1](torch.cat([alone, entering])[None], None)[0]
        torch.testing.assert_close(hidden[row, : len(words)], expected[: len(words)])
        torch.testing.assert_close(hidden[row, -4:], expected[-4:])


@pytest.mark.parametrize("fusion_layer", [0, 1])
def test_pairs_that_share_a_text_score_as_pairs_with_a_text_each(fusion_layer, pairs):
    reranker = tiny_reranker(fusion_layer=fusion_layer)
    visual, rows = reranker.compress(pairs.tokens), torch.tensor([1, 1, 0, 5, 5, 5, 2, 0])
    repeated = TextBatch(pairs.text.input_ids[rows], pairs.text.attention_mask[rows])
    torch.testing.assert_close(
        reranker.score(pairs.text, visual, "t2i", text_rows=rows),
        reranker.score(repeated, visual, "t2i"),
    )


@pytest.mark.parametrize("layer", [2, -1, 7])
def test_a_fusion_layer_beyond_the_language_model_is_refused(layer):
    with pytest.raises(EdjeError, match=f"fusion_layer={layer}.*2 layers; expected 0 .* to 1"):
        JointEncoder(tiny_language_model().encoder, 3, 63, 4, JointOptions(layer))


def test_a_language_model_in_training_can_be_split_whatever_its_dropout():
    encoder = tiny_language_model().encoder
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert JointEncoder(encoder.train(), 3, 63, 4, JointOptions(1)).fusion_layer == 1
    assert encoder.training


def test_a_text_that_is_too_long_is_cut_and_still_ends_with_a_separator():
    joint = JointEncoder(tiny_language_model().encoder, 3, 4, 4)
    mask = torch.arange(6) < torch.tensor([[6], [5], [4], [3]])
    ids = torch.tensor([[2, 7, 8, 9, 6, 3], [2, 7, 8, 9, 3, 0], [2, 7, 8, 3, 0, 0]])
    ids = torch.cat([ids, torch.tensor([[2, 7, 3, 0, 0, 0]])])
    cut = joint.cut(TextBatch(ids, mask))
    assert cut.input_ids.tolist() == [[2, 7, 8, 3]] * 3 + [[2, 7, 3, 0]]
    assert cut.attention_mask.sum(dim=1).tolist() == [4, 4, 4, 3]


def test_heads_compute_in_float32_under_autocast_too():
    torch.manual_seed(0)
    states, scores = torch.randn(6, 8), torch.randn(6)
    match, residual = MatchHead(8), FirstStageResidual(8)
    nn.init.normal_(residual.project.weight)
    words, visual = torch.randn(3, 5, 8), torch.randn(2, 4, 8)
    present = torch.ones(3, 5, dtype=torch.bool)

    def computed():
        return match(states), residual(states, scores), late_interaction(words, present, visual)

    expected = computed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = computed()
        assert match(states.bfloat16()).dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_late_interaction_is_the_mean_over_words_of_the_best_cosine():
    words, visual = torch.randn(3, 5, 8), torch.randn(2, 4, 8)
    present = torch.rand(3, 5) < 0.6
    present[:, 0] = True
    found = late_interaction(words, present, visual)
    for caption in range(3):
        for image in range(2):
            cosine = nn.functional.cosine_similarity(
                words[caption][present[caption]][:, None], visual[image][None], dim=-1
            )
            torch.testing.assert_close(found[caption, image], cosine.amax(1).mean())


def test_a_short_position_table_is_extended_by_its_last_row():
    language_model = tiny_language_model(max_positions=40)
    before = language_model.encoder.embeddings.position_embeddings.weight.clone()
    names = set(language_model.encoder.state_dict())
    joint = JointEncoder(language_model.encoder, 3, 63, 16)
    assert set(joint.language_model.state_dict()) == names  # or checkpoints wouldn't fit
    after = joint.language_model.embeddings.position_embeddings.weight
    assert after.shape[0] == 63 + 16 + 1
    torch.testing.assert_close(after[:40], before)
    torch.testing.assert_close(after[40:], before[-1:].expand(40, -1))


def test_the_compression_adapter_follows_the_papers_equations():
    adapter = TokenCompressionAdapter(
        BackboneFacts(9, 16, 2, 1e-6, 12).beside(32), num_tokens=4, hidden_width=24
    )
    tokens = torch.randn(3, 9, 16)
    weights = dict(adapter.named_parameters())
    key = tokens @ weights["key.weight"].T + weights["key.bias"]
    value = tokens @ weights["value.weight"].T + weights["value.bias"]
    in_weight = weights["attention.in_proj_weight"].split(16)
    in_bias = weights["attention.in_proj_bias"].split(16)
    queries = (weights["query"] @ in_weight[0].T + in_bias[0]).expand(3, -1, -1)
    heads = [
        part.reshape(3, -1, 2, 8).transpose(1, 2)
        for part in (
            queries,
            key @ in_weight[1].T + in_bias[1],
            value @ in_weight[2].T + in_bias[2],
        )
    ]
    chances = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1)
    joined = (chances @ heads[2]).transpose(1, 2).reshape(3, 4, 16)
    pooled = joined @ weights["attention.out_proj.weight"].T + weights["attention.out_proj.bias"]
    normed = nn.functional.layer_norm(
        pooled, (16,), weights["norm.weight"], weights["norm.bias"], 1e-6
    )
    hidden = nn.functional.gelu(normed @ weights["expand.weight"].T + weights["expand.bias"])
    output = pooled + hidden @ weights["contract.weight"].T + weights["contract.bias"]
    expected = output @ weights["project.weight"].T + weights["project.bias"]
    torch.testing.assert_close(adapter(tokens), expected, rtol=1e-5, atol=1e-5)


def test_the_local_adapter_treats_every_token_alone():
    adapter = LocalAdapter(BackboneFacts(9, 16, 2, 1e-6, 12).beside(32), hidden_width=24)
    tokens = torch.randn(2, 9, 16)
    order = torch.randperm(9)
    assert adapter(tokens).shape == (2, 9, 32)
    torch.testing.assert_close(adapter(tokens[:, order]), adapter(tokens)[:, order])


@pytest.mark.parametrize("adapter", [COMPRESSION, LOCAL])
@pytest.mark.parametrize("fusion_layer", [0, 1])
def test_every_parameter_gets_a_gradient(adapter, fusion_layer, pairs):
    model = tiny_reranker(adapter, residual=True, fusion_layer=fusion_layer)
    visual = model.compress(pairs.tokens)
    nn.init.normal_(model.residual.project.weight)
    scores = model.score(pairs.text, visual, "t2i", torch.rand(8))
    hidden = model.joint.encode_text(pairs.text.input_ids, pairs.text.attention_mask)
    words = model.masked_language(hidden[:, 1], model.joint.word_embeddings.weight)
    (
        scores.square().sum()
        + words.logsumexp(1).sum()
        + model.text_recovery(hidden[:, 0]).square().sum()
    ).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_a_residual_model_refuses_to_score_without_the_first_stage(pairs):
    model = tiny_reranker(residual=True)
    with pytest.raises(ValueError, match="pass first_stage"):
        score(model, pairs)


def test_a_fresh_residual_changes_nothing_and_a_trained_one_does(pairs):
    model = tiny_reranker(residual=True)
    visual = model.compress(pairs.tokens)
    low = model.score(pairs.text, visual, "t2i", torch.zeros(8))
    torch.testing.assert_close(low, model.score(pairs.text, visual, "t2i", torch.ones(8)))
    nn.init.normal_(model.residual.project.weight)
    low = model.score(pairs.text, visual, "t2i", torch.zeros(8))
    assert not torch.allclose(low, model.score(pairs.text, visual, "t2i", torch.ones(8)))


def test_a_residual_adds_its_projection_of_the_score_to_the_state():
    residual = FirstStageResidual(3)
    state, scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([2.0, -1.0])
    assert torch.equal(residual(state, scores), state)
    with torch.no_grad():
        residual.expand.weight.fill_(1.0), residual.expand.bias.fill_(0.5)
        residual.project.weight.fill_(0.25), residual.project.bias.fill_(-1.0)
    gelu = [x * (1 + math.erf(x / 2**0.5)) / 2 for x in (2.5, -0.5)]
    added = torch.tensor([[16 * value - 1] for value in gelu])
    torch.testing.assert_close(residual(state, scores), state + added)


def test_directions_are_standardised_apart():
    model = tiny_reranker(residual=True)
    model.set_first_stage_statistics("t2i", 0.2, 0.1)
    model.set_first_stage_statistics("i2t", 0.5, 2.0)
    scores = torch.tensor([0.2, 0.5])
    torch.testing.assert_close(model.standardise(scores, "t2i"), torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(model.standardise(scores, "i2t"), torch.tensor([-0.15, 0.0]))


def test_an_adapter_with_wrong_choices_is_named():
    from edje.errors import EdjeError

    with pytest.raises(EdjeError, match=r"LocalAdapter.*num_tokens"):
        build_reranker(
            AdapterSpecification("edje.models.adapters.LocalAdapter", {"num_tokens": 3}),
            FACTS,
            tiny_language_model(),
            False,
        )
    with pytest.raises(EdjeError, match="edje has no adapter"):
        build_reranker(
            AdapterSpecification("edje.models.adapters.Nothing"),
            FACTS,
            tiny_language_model(),
            False,
        )
    with pytest.raises(EdjeError, match="register_adapter"):
        build_reranker(AdapterSpecification("os.system"), FACTS, tiny_language_model(), False)

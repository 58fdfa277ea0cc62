"""What each adapter does to the tokens, and what it must not see."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

import edje
from edje.config.defaults import fill_defaults
from edje.config.locations import conf_folder, register_resolvers
from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    adapter_class,
    build_reranker,
    load_checkpoint,
    save_checkpoint,
)
from edje.inference.reranker import Reranker
from edje.models import adapters
from edje.models.adapters import Adapter, BackboneFacts
from edje.models.adapters.kmeans import kmeans
from tests.tiny.encoders import tiny_language_model
from tests.tiny.learning import BROKEN, BY_HEART, eight_pairs, learned
from tests.tiny.rerankers import tiny_checkpoint, tiny_pairs
from tests.tiny.words import tiny_captions

FACTS = BackboneFacts(  # a grid of 6 x 6
    num_tokens=36, token_width=16, num_heads=2, layer_norm_eps=1e-6, embedding_width=12
)
REDUCING = ["GridPoolingAdapter", "SubsamplingAdapter", "KMeansAdapter", "AttentionPruningAdapter"]
CHOICES = {
    **{name: {"num_tokens": 4, "hidden_width": 32} for name in REDUCING},
    "TokenCompressionAdapter": {"num_tokens": 4, "hidden_width": 32},
    "QueryTransformerAdapter": {"num_tokens": 4, "hidden_width": 32},
    "LinearPoolingAdapter": {"num_tokens": 4},
    "LocalAdapter": {"hidden_width": 32},
}


def specification(name, **choices) -> AdapterSpecification:
    return AdapterSpecification(f"edje.models.adapters.{name}", {**CHOICES[name], **choices})


def adapter(name, seed=0, facts=FACTS, **choices):
    torch.manual_seed(seed)
    spec = specification(name, **choices)
    return adapter_class(spec.target)(facts.beside(32), **spec.choices).eval()


def refused(name, match, facts=FACTS, **choices):
    with pytest.raises(EdjeError, match=match):
        build_reranker(specification(name, **choices), facts, tiny_language_model(), False)


def images(count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 36, 16, generator=generator)


def shuffled(tokens, seed=2):
    return tokens[:, torch.randperm(36, generator=torch.Generator().manual_seed(seed))]


def test_every_adapter_is_checked_here():
    assert set(adapters.__all__) - {"Adapter", "AdapterFacts", "BackboneFacts"} == set(CHOICES)


@pytest.mark.parametrize("name", CHOICES)
def test_tokens_come_in_the_promised_number_and_are_the_same_each_time(name):
    built = adapter(name)
    tokens = built(images())
    assert tokens.shape == (3, built.num_tokens, 32)
    assert built.num_tokens == (36 if name == "LocalAdapter" else 4)
    assert torch.equal(tokens, built(images()))


@pytest.mark.parametrize("name", CHOICES)
def test_an_adapter_without_budgets_has_none_to_draw(name):
    built = adapter(name).train()
    assert isinstance(built, Adapter) and built.budgets == ()
    before = built(images())
    built.draw_budget(0.5)
    assert torch.equal(built(images()), before)


def test_what_is_no_adapter_is_refused():
    with pytest.raises(EdjeError, match=r"it does not derive from edje\.models\.adapters\.Adapter"):

        @edje.register_adapter("plain")
        class Plain(nn.Linear):
            def __init__(self, facts):
                super().__init__(facts.token_width, facts.width)

    given = AdapterSpecification("edje.models.adapters.local.Plain", {})
    with pytest.raises(EdjeError, match=r"edje has no adapter .*local\.Plain"):
        build_reranker(given, FACTS, tiny_language_model(), False)


def test_an_adapter_is_told_the_backbone_s_facts_and_the_joint_encoder_s_width():
    told = FACTS.beside(32)
    assert vars(told) == {**vars(FACTS), "width": 32, "activation": F.gelu}


@pytest.mark.parametrize("name", CHOICES)
def test_a_neighbour_in_the_batch_never_changes_an_images_tokens(name):
    built = adapter(name)
    torch.testing.assert_close(built(images())[1:2], built(images()[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHOICES)
def test_a_gradient_reaches_every_parameter(name):
    built = adapter(name).train()
    built(images()).square().sum().backward()
    silent = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def learner(name, seed=11):
    """The adapter before a reranker that has evidence, through which each kind learns surely."""
    torch.manual_seed(seed)
    language_model = tiny_language_model(fusion_layer=1, evidence=True)
    facts = replace(FACTS, num_tokens=9)
    model = build_reranker(specification(name), facts, language_model, False)
    return replace(
        tiny_checkpoint(),
        model=model,
        language_model=language_model,
        adapter=specification(name),
        facts=facts,
    )


# Seen with 10 seeds: the least probability 0.97 to 0.999; broken, the mean 0.121 to 0.128. With 8
# seeds, 1, 2 and 4 threads and AVX-512, AVX2 or no vectors, a setting changes it by at most 0.004.
LEARNING = {"steps": 24, "lr": 1e-2}


@pytest.mark.parametrize("name", CHOICES)
def test_it_trains_and_comes_back_from_a_checkpoint(name, tmp_path):
    trained = learner(name)
    assert learned(trained.model, **LEARNING).min() > BY_HEART
    save_checkpoint(trained, tmp_path / "model.ckpt")
    again, tokens = load_checkpoint(tmp_path / "model.ckpt").model, eight_pairs().tokens
    assert torch.equal(again.compress(tokens), trained.model.compress(tokens))


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", CHOICES)
def test_nothing_is_learned_by_a_frozen_adapter_or_from_shuffled_pairs(name, broken):
    assert learned(learner(name).model, broken=broken, **LEARNING).mean() < BY_HEART


# Kinds of symmetry.


@pytest.mark.parametrize("name", ["TokenCompressionAdapter", "QueryTransformerAdapter"])
def test_attending_queries_see_a_set_of_tokens(name):
    built = adapter(name)
    torch.testing.assert_close(built(shuffled(images())), built(images()), rtol=1e-4, atol=1e-5)


def test_cluster_centres_do_not_depend_on_the_order_of_the_tokens():
    built = adapter("KMeansAdapter")
    torch.testing.assert_close(built(shuffled(images())), built(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["attention", "norm"])
def test_pruning_keeps_the_same_tokens_in_any_order(by):
    built = adapter("AttentionPruningAdapter", by=by)
    there, here = built.reduce(shuffled(images())), built.reduce(images())
    for left, right in zip(there, here, strict=True):
        assert {tuple(token) for token in left.tolist()} == {tuple(t) for t in right.tolist()}


def test_pooling_turns_with_the_image():
    built = adapter("GridPoolingAdapter")
    grid = images().unflatten(1, (6, 6))
    turned = built(grid.rot90(1, (1, 2)).flatten(1, 2))
    expected = built(images()).unflatten(1, (2, 2)).rot90(1, (1, 2)).flatten(1, 2)
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", REDUCING)
def test_reduced_tokens_are_projected_as_the_local_adapter_projects_each(name):
    built, local = adapter(name), adapter("LocalAdapter")
    local.load_state_dict(built.state_dict())
    expected = local(built.reduce(images()))
    torch.testing.assert_close(built(images()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REDUCING)
def test_keeping_every_token_reduces_nothing(name):
    kept = adapter(name, num_tokens=36).reduce(images())
    order = [tokens[:, :, 0].argsort() for tokens in (kept, images())]
    for row in range(3):  # as sets: the centres have an order of their own
        torch.testing.assert_close(
            kept[row][order[0][row]], images()[row][order[1][row]], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", REDUCING)
def test_more_tokens_than_the_backbone_has_are_refused(name):
    refused(name, rf"{name}.*num_tokens=49: expected 1 to 36", num_tokens=49)
    refused(name, r"num_tokens=0: expected 1 to 36", num_tokens=0)


# One by one.


def test_pooling_averages_the_cells_of_the_grid():
    grid = images().view(3, 6, 6, 16)
    kept = adapter("GridPoolingAdapter", num_tokens=6).reduce(images())  # 2 rows of 3 cells
    for row in range(2):
        for column in range(3):
            cell = grid[:, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            torch.testing.assert_close(kept[:, 3 * row + column], cell.mean(dim=(1, 2)))


def test_pooling_needs_a_square_and_cells_that_fit_it():
    refused(
        "GridPoolingAdapter",
        "37 tokens don't form a square",
        facts=BackboneFacts(37, 16, 2, 1e-6, 12),
    )
    refused("GridPoolingAdapter", "num_tokens=7 is 1 x 7 cells at best", num_tokens=7)


def test_subsampling_keeps_every_ninth_of_576():
    facts = BackboneFacts(576, 16, 2, 1e-6, 12)
    tokens = torch.randn(2, 576, 16)
    built = adapter("SubsamplingAdapter", facts=facts, num_tokens=64)
    assert torch.equal(built.reduce(tokens), tokens[:, ::9])
    uneven = adapter("SubsamplingAdapter", num_tokens=5).reduce(images())
    assert torch.equal(uneven, images()[:, [0, 7, 14, 21, 28]])


def test_a_token_that_subsampling_drops_never_matters():
    built, changed = adapter("SubsamplingAdapter"), images()
    kept = [0, 9, 18, 27]
    changed[:, [row for row in range(36) if row not in kept]] += 5
    assert torch.equal(built(changed), built(images()))


def test_k_means_finds_clusters_that_lie_apart():
    corners = 20 * torch.eye(16)[:4]
    tokens = (corners.repeat_interleave(9, 0) + 0.1 * images(1)[0])[None]
    centres = kmeans(shuffled(tokens), 4, iterations=5)[0]
    expected = tokens[0].view(4, 9, 16).mean(dim=1)
    nearest = torch.cdist(expected, centres).argmin(dim=1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(centres[nearest], expected, rtol=1e-4, atol=1e-4)


def test_k_means_starts_nearest_to_the_mean_and_then_farthest_from_the_chosen():
    tokens = torch.tensor([[[8.0], [5.5], [1.0], [6.0]]])  # their mean is 5.125
    assert kmeans(tokens, 3, iterations=0).flatten().tolist() == [5.5, 1.0, 8.0]


def test_k_means_ends_where_each_centre_is_the_mean_of_its_tokens():
    centres = kmeans(images(), 4, iterations=50)
    for points, found in zip(images(), centres, strict=True):
        member = torch.cdist(points, found).argmin(dim=1)
        for row in range(4):
            torch.testing.assert_close(found[row], points[member == row].mean(0))


def test_k_means_of_fewer_different_tokens_than_centres_stays_finite():
    tokens = torch.ones(1, 36, 16)
    torch.testing.assert_close(kmeans(tokens, 4, iterations=3), torch.ones(1, 4, 16))


def test_k_means_is_float32_in_a_step_of_bf16():
    built = adapter("KMeansAdapter")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(built.reduce(images()), built.reduce(images().float()))
        assert built.reduce(images()).dtype == torch.float32


def test_pruning_by_attention_keeps_what_the_mean_token_attends_to():
    """Against torch's own attention, head by head, with the mean of the normed tokens as query."""
    normed = F.layer_norm(images(), (16,), eps=1e-6)
    query = normed.mean(dim=1, keepdim=True)
    weights = torch.stack(
        [
            F.scaled_dot_product_attention(
                query[..., head], normed[..., head], torch.eye(36).expand(3, -1, -1)
            )[:, 0]
            for head in (slice(0, 8), slice(8, 16))
        ]
    ).mean(dim=0)
    built = adapter("AttentionPruningAdapter")
    torch.testing.assert_close(built.weights(images()), weights)
    kept = weights.topk(4, dim=1).indices.sort(dim=1).values
    for row in range(3):
        assert torch.equal(built.reduce(images())[row], images()[row, kept[row]])


def test_pruning_by_norm_keeps_the_longest_tokens_in_their_order():
    tokens = images()
    tokens[:, [30, 2, 17, 5]] *= 100
    kept = adapter("AttentionPruningAdapter", by="norm").reduce(tokens)
    assert torch.equal(kept, tokens[:, [2, 5, 17, 30]])


def test_a_query_transformer_is_as_deep_as_asked_and_every_layer_reads_the_image():
    built = adapter("QueryTransformerAdapter", num_layers=3)
    assert len(built.layers) == 3
    memory = built.token_norm(images()).transpose(0, 1)
    for layer in built.layers:
        hidden = built.query[0, :, None].expand(-1, 3, -1)
        assert not torch.allclose(layer(hidden, memory), layer(hidden, memory.roll(1, 1)))
    refused("QueryTransformerAdapter", "num_layers=0: expected 1 or more", num_layers=0)


# Attention maps.


def values_gathered(built, maps, tokens):
    """The adapter's output from its maps: weights @ values, head by head, then what follows."""
    width, heads = 16, maps.shape[1]
    attention = built.attention
    of_values = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    values = F.linear(built.value(tokens), *of_values).unflatten(2, (heads, -1))
    gathered = torch.einsum("bhmn,bnhw->bmhw", maps, values).flatten(2)
    pooled = attention.out_proj(gathered)
    return built.project(pooled + built.contract(F.gelu(built.expand(built.norm(pooled)))))


def test_attention_maps_are_the_weights_that_forward_sums_values_with():
    """In float64, where the two orders of summing differ by next to nothing."""
    built = adapter("TokenCompressionAdapter").double()
    for parameter in built.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    tokens = 3 * images().double()
    maps = built.attention_maps(tokens)
    assert maps.shape == (3, FACTS.num_heads, 4, 36)
    torch.testing.assert_close(maps.sum(dim=3), torch.ones(3, FACTS.num_heads, 4).double())
    assert maps.amax(dim=3).min() > 3 / 36  # sharp ones, that uniform weights couldn't stand for
    found = values_gathered(built, maps, tokens)
    torch.testing.assert_close(found, built(tokens), rtol=1e-9, atol=1e-9)


def test_attention_maps_are_those_of_inference_and_of_the_tokens_given_there():
    built = nested().train()
    built.draw_budget(0.0)
    maps = built.attention_maps(images())
    assert maps.shape[2] == 8
    few = built.with_first_tokens(2)
    torch.testing.assert_close(few.attention_maps(images()), maps[:, :, :2])


@pytest.mark.parametrize("training", [False, True])
def test_forward_never_asks_for_the_weights(training):
    asked = []
    built = adapter("TokenCompressionAdapter").train(training)
    built.attention.register_forward_pre_hook(
        lambda module, given, named: asked.append(named["need_weights"]), with_kwargs=True
    )
    built(images())
    assert asked == [False]
    built.attention_maps(images())
    assert asked == [False, True]


@pytest.mark.parametrize("name", sorted(CHOICES.keys() - {"TokenCompressionAdapter"}))
def test_an_adapter_whose_tokens_are_no_weighted_sums_has_no_maps(name):
    assert adapter(name).attention_maps(images()) is None


# Nested budgets.


def nested(**choices):
    return adapter("TokenCompressionAdapter", num_tokens=8, budgets=[2, 4, 8], **choices)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_tokens_are_what_a_smaller_number_of_queries_gives(count):
    built = nested()
    everything = built(images())
    built.num_tokens = count
    assert built(images()).shape == (3, count, 32)
    torch.testing.assert_close(built(images()), everything[:, :count], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["TokenCompressionAdapter", "QueryTransformerAdapter"])
def test_frozen_weights_are_not_copied_for_every_vision_token(name):
    """A frozen adapter once ran at a fiftieth of its speed: a product per token, in bf16."""
    facts = BackboneFacts(9, 32, 2, 1e-6, 12).beside(16)
    adapter = getattr(adapters, name)(facts, num_tokens=3, hidden_width=64).eval()
    adapter.requires_grad_(False)
    with torch.profiler.profile(record_shapes=True) as seen:
        adapter(torch.randn(2, 9, 32))
    products = [event.input_shapes for event in seen.events() if event.name == "aten::bmm"]
    assert not any(shapes[1] == [9, 32, 32] for shapes in products)


def test_training_gives_the_drawn_budget_and_inference_all_tokens():
    built = nested().train()
    assert built(images()).shape[1] == 8  # until one is drawn
    for chance, count in ((0.0, 2), (0.5, 4), (0.99, 8)):
        built.draw_budget(chance)
        assert built(images()).shape[1] == count
    built.draw_budget(0.0)
    assert built.eval()(images()).shape[1] == 8


def test_queries_beyond_the_drawn_budget_get_no_gradient():
    built = nested().train()
    built.draw_budget(0.0)
    built(images()).square().sum().backward()
    reached = built.query.grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * 2 + [False] * 6


@pytest.mark.parametrize(
    ("num_tokens", "budgets"),
    [
        (64, (8, 16, 32, 64)),
        (16, (2, 4, 8, 16)),
        (100, (12, 25, 50, 100)),
        (4, (1, 2, 4)),
        (1, (1,)),
    ],
)
def test_halves_are_budgets_that_end_with_all_tokens(num_tokens, budgets):
    built = adapter("TokenCompressionAdapter", num_tokens=num_tokens, budgets="halves")
    assert built.budgets == budgets


@pytest.mark.parametrize("budgets", [[0, 4], [4, 9], []])
def test_a_budget_that_cannot_be_is_refused(budgets):
    refused("TokenCompressionAdapter", r"budgets=.*from 1 to num_tokens=4", budgets=budgets)


def test_a_reranker_with_budgets_serves_fewer_tokens(tmp_path):
    spec = AdapterSpecification(
        "edje.models.adapters.TokenCompressionAdapter",
        {"num_tokens": 4, "hidden_width": 32, "budgets": [2, 4]},
    )
    save_checkpoint(tiny_checkpoint(spec), tmp_path / "nested.ckpt")
    tokens, captions = tiny_pairs(4).tokens, tiny_captions(4)
    full = Reranker.from_pretrained(tmp_path / "nested.ckpt")
    few = Reranker.from_pretrained(tmp_path / "nested.ckpt", num_tokens=2)
    visual = few.compress(tokens)
    torch.testing.assert_close(visual, full.compress(tokens)[:, :2])
    cut = full.with_first_tokens(2)
    torch.testing.assert_close(few.score(captions, visual), cut.score(captions, visual))
    with pytest.raises(EdjeError, match=r"num_tokens=5: this reranker has 4 tokens.*first 2, 4"):
        Reranker.from_pretrained(tmp_path / "nested.ckpt", num_tokens=5)


def test_fewer_tokens_of_an_adapter_without_budgets_are_refused(tmp_path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "plain.ckpt")
    with pytest.raises(EdjeError, match=r"num_tokens=2.*all of its 4 tokens.*compression_nested"):
        Reranker.from_pretrained(tmp_path / "plain.ckpt", num_tokens=2)


# The files of conf/adapter.

OPTIONS = sorted(file.stem for file in (conf_folder() / "adapter").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_an_adapter_of_a_backbone_with_576_tokens(option):
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = fill_defaults(compose("run", [f"adapter={option}"])).adapter
    choices = OmegaConf.to_container(node)
    target = choices.pop("_target_")
    facts = BackboneFacts(576, 16, 2, 1e-6, 12)
    built = build_reranker(
        AdapterSpecification(target, choices), facts, tiny_language_model(), False
    )
    tokens = built.eval().compress(torch.randn(1, 576, 16))
    assert tokens.shape == (1, choices.get("num_tokens", 576), 32)


def test_the_nested_option_trains_all_of_however_many_tokens():
    register_resolvers()
    facts = BackboneFacts(9, 16, 2, 1e-6, 12).beside(32)
    for count, budgets in ((64, (8, 16, 32, 64)), (128, (16, 32, 64, 128))):
        given = ["adapter=compression_nested", f"++adapter.num_tokens={count}"]
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            built = instantiate(compose("run", given).adapter, facts)
        assert (built.budgets, built.num_tokens) == (budgets, count)


def test_every_adapter_has_an_option():
    named = {
        OmegaConf.load(Path(conf_folder() / "adapter" / f"{option}.yaml")).get("_target_")
        for option in OPTIONS
    }
    assert named - {None} == {f"edje.models.adapters.{name}" for name in CHOICES}

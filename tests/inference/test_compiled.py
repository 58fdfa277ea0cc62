"""Claims about the compiled scorer; on CUDA it replays graphs, which nothing here can run."""

import pytest
import torch

from edje.errors import EdjeError
from edje.inference import compiled
from edje.inference.cls_encoder import BertClsEncoder
from edje.inference.compiled import CompiledLayers, static_size
from edje.inference.scorer import StoredTokenScorer
from tests.tiny.scoring import collection, reranker_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore:Guards may run slower:RuntimeWarning",  # on Python 3.13.0 alone
)


@pytest.mark.compilers
def test_compiled_layers_give_the_scores_of_the_others(compiling):
    """One text length, two batches of one static size, the second with pairs that are padding."""
    model, stored = reranker_of(), collection(texts=1, images=35)
    queries, images = torch.zeros(35, dtype=torch.long), torch.arange(35)
    scores = [
        StoredTokenScorer(model, stored, torch.float32, 18, compiled)(
            "t2i", queries, images, torch.zeros(35)
        )
        for compiled in (False, True)
    ]
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-5)
    assert scores[0].std() > 0.01


def test_few_sizes_hold_every_number_of_pairs_with_little_padding():
    sizes = {static_size(pairs) for pairs in range(1, 1025)}
    assert len(sizes) <= 16 + 6 * 8
    assert all(pairs <= static_size(pairs) <= 1.13 * pairs for pairs in range(1, 1025))


def test_of_the_inputs_of_compiled_layers_only_the_states_may_move(compiling):
    """A graph copies all others before every replay: 43 MB of MiniLM-L12's weights in bf16."""
    joint, moving = reranker_of().joint, []

    def looking(graph, inputs):
        for node in graph.graph.find_nodes(op="placeholder"):
            if "_dynamo_static_input_type" not in node.meta["tensor_dict"]:
                moving.append(node.name)
        return graph.forward

    encoder = BertClsEncoder(joint, torch.float32, compiled=True)
    layers = CompiledLayers(encoder._upper, torch.device("cpu"), backend=looking)
    states = torch.randn(4, 9, joint.width)
    with torch.inference_mode():
        torch.testing.assert_close(layers(states), encoder._upper(states), rtol=0, atol=1e-6)
    assert len(moving) == 1, moving


class Doubling:
    """Layers that count how often they run in Python: compiled forms don't, once traced."""

    def __init__(self):
        self.calls = 0

    def __call__(self, states):
        self.calls += not torch.compiler.is_compiling()
        return states[:, :1] * 2 + 1


def test_beyond_the_limit_of_shapes_the_layers_run_as_they_are(compiling, caplog):
    """Of six shapes the first four are compiled; every state is right, again and again."""
    run = Doubling()
    layers = CompiledLayers(run, torch.device("cpu"), most=4, backend="eager")
    for _ in range(3):
        for length in range(1, 7):
            states = torch.randn(3, length, 2)
            assert torch.equal(layers(states), states[:, :1] * 2 + 1)
    assert len(layers.forms) == 4 and run.calls == 3 * 2
    said = [record.message for record in caplog.records if record.name == compiled.__name__]
    assert said == ["4 shapes are compiled; all others run uncompiled"]


def test_torch_s_own_limits_on_compiled_forms_are_never_met(compiling, monkeypatch):
    """Limits of 1 and 2: met by one's 2nd shape, and by the 3rd one of a single shape."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    monkeypatch.setattr(torch._dynamo.config, "accumulated_recompile_limit", 2)
    for _ in range(3):
        run = Doubling()
        layers = CompiledLayers(run, torch.device("cpu"), backend="eager")
        for pairs in range(1, 4):
            assert torch.equal(layers(torch.ones(pairs, 3, 2)), torch.full((pairs, 1, 2), 3.0))
        assert len(layers.forms) == 3 and run.calls == 0


@pytest.mark.parametrize(
    ("kind", "precision", "said"),
    [
        ("modernbert", torch.float32, r"compile: only supports BERT and similar .*, not Modern"),
        ("bert", torch.int8, r"compile: on this CPU, int8 and bf16 have faster kernels"),
    ],
)
def test_what_has_no_compiled_form_says_so(kind, precision, said):
    with pytest.raises(EdjeError, match=said):
        StoredTokenScorer(reranker_of(kind), collection(), precision, compiled=True)

"""Claims about adapters on a device."""

import copy

import pytest
import torch

from edje.models import adapters
from tests.gpu.sizes import DEVICE, FACTS, HIDDEN, VISUAL, WIDTH, drawn

pytestmark = pytest.mark.gpu
CHOOSES = ("AttentionPruningAdapter", "KMeansAdapter")  # among tokens: equals may change places
NAMES = [name for name in adapters.__all__ if name.endswith("Adapter") and name != "Adapter"]


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_gives_what_it_gives_on_the_cpu_and_learns_in_bf16(name):
    choices = {"hidden_width": HIDDEN} if name == "LocalAdapter" else {"num_tokens": VISUAL}
    adapter = getattr(adapters, name)(FACTS.beside(WIDTH), **choices).eval()
    reference, tokens = copy.deepcopy(adapter), drawn(4, FACTS.num_tokens, FACTS.token_width)
    adapter = adapter.to(DEVICE)
    with torch.inference_mode():
        found, expected = adapter(tokens.to(DEVICE)).cpu(), reference(tokens)
    close = (found - expected).abs().amax(dim=2) < 1e-4 * expected.std()
    assert close.float().mean() >= (0.95 if name in CHOOSES else 1.0)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        half = adapter.train()(tokens.to(DEVICE))
    half.float().square().sum().backward()
    for parameter_name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name

"""Claims about cells that are packed and unpacked on a device."""

import pytest
import torch

from edje.tokens.codec import make_codec
from tests.gpu.sizes import BATCH, DEVICE, FACTS, IMAGES, RawTokens

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp8", "int8", "int4"])
def test_a_device_packs_and_unpacks_cells_as_the_cpu_does(name, raw: RawTokens):
    """A division may round its last bit otherwise: of scaled bytes less than one in a thousand."""
    codec, tokens = make_codec(name, FACTS.num_tokens, FACTS.token_width), raw.tokens[:8]
    cells, there = (torch.from_numpy(codec.encode(given)) for given in (tokens, tokens.to(DEVICE)))
    differing = float((cells != there).float().mean())
    assert differing == 0 if name in ("fp16", "bf16") else differing < 1e-3
    unpacked = codec.decode(cells, device=DEVICE)
    assert unpacked.device.type == DEVICE.type and unpacked.dtype == torch.float32
    torch.testing.assert_close(unpacked.cpu(), codec.decode(cells), rtol=0, atol=1e-6)


def test_a_store_unpacks_the_rows_asked_for_on_the_device(raw: RawTokens):
    rows = torch.randint(IMAGES, (BATCH,))
    found = raw.store.read(rows, device=DEVICE)
    assert found.device.type == DEVICE.type
    assert torch.equal(found.cpu(), raw.tokens[rows].float())

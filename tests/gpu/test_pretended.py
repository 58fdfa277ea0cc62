"""Claims about the GPU that isn't there: it refuses what a GPU refuses, and computes the rest."""

import copy
import io
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from tests.gpu.pretended import pretended_gpu
from tests.gpu.sizes import ON_GPU

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU, reason="there is a GPU, or one is pretended already"),
]


@pytest.fixture(autouse=True)
def pretended() -> Iterator[None]:
    with pretended_gpu():
        yield
    assert not torch.cuda.is_available()


def there(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


ROWS = torch.tensor([0, 1])
REFUSED: dict[str, tuple[str, Callable[[], object]]] = {
    "products": ("same device", lambda: there(2, 3) @ torch.ones(3)),
    "layers": ("same device", lambda: nn.Linear(3, 3).cuda()(torch.ones(3))),
    "inputs of layers": ("same device", lambda: nn.Linear(3, 3)(there(3))),
    "embeddings": ("same device", lambda: nn.Embedding(3, 3).cuda()(ROWS)),
    "lists": ("same device", lambda: torch.cat([there(1), torch.ones(1)])),
    "stacked numbers": ("same device", lambda: torch.stack([there(), torch.ones(())])),
    "numbers of the GPU": ("same device", lambda: torch.ones(3) * there()),
    "sums on the host": ("same device", lambda: torch.ones(3).add_(there())),
    "numbers of the host": ("same device", lambda: torch.ones(()).add_(there())),
    "rows of the host": ("indices", lambda: torch.ones(3)[ROWS.cuda()]),
    "gathered rows": ("same device", lambda: there(3).gather(0, ROWS)),
    "values for rows": ("same device", lambda: there(3).__setitem__(ROWS, torch.ones(2))),
    "NumPy": ("numpy", lambda: there(3).numpy()),
    "generators": (
        "generator",
        lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    ),
    "draws": ("generator", lambda: there(3).normal_(generator=torch.Generator())),
    "pinning": ("pin", lambda: there(3).pin_memory()),
}


@pytest.mark.parametrize(("said", "call"), REFUSED.values(), ids=REFUSED)
def test_what_a_gpu_refuses_is_refused(said: str, call: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=said):
        call()


def test_a_model_learns_there_as_on_the_cpu() -> None:
    """And all that belongs to it is there: weights, gradients, buffers, the optimiser's state."""
    torch.manual_seed(0)
    here: nn.Module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model = copy.deepcopy(here).to("cuda")
    inputs = torch.randn(8, 4)
    for one, given in ((here, inputs), (model, inputs.to("cuda"))):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            one(given).square().mean().backward()
            nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
    assert all(state["exp_avg"].is_cuda for state in optimizer.state.values())
    assert all(parameter.grad.is_cuda for parameter in model.parameters())
    for own, other in zip(model.state_dict().items(), here.state_dict().items(), strict=True):
        assert own[1].device == torch.device("cuda", 0) and not other[1].is_cuda
        assert torch.equal(own[1].cpu(), other[1]), own[0]


def test_a_number_of_the_host_and_its_rows_may_come_to_the_gpu() -> None:
    assert (there(3) * torch.tensor(2.0)).is_cuda
    assert there(3)[ROWS].is_cuda and there(3)[ROWS].tolist() == [1, 1]
    moved = torch.zeros(3).copy_(there(3))
    assert not moved.is_cuda and moved.numpy().sum() == 3
    tensor = torch.ones(2, dtype=torch.float64)
    assert tensor.to("cpu") is tensor and tensor.to("cuda").is_cuda and not tensor.is_cuda
    assert tensor.to(there(1)).dtype == torch.float32 and tensor.to(there(1)).is_cuda
    assert tensor.pin_memory().is_pinned() and not tensor.is_pinned()
    with torch.autocast("cuda", torch.bfloat16):
        assert (there(2, 2) @ there(2, 2)).dtype == torch.bfloat16


WAITS: dict[str, Callable[[], object]] = {
    "a number": lambda: there(1).item(),
    "a truth": lambda: bool(there(1)),
    "a copy": lambda: there(1).cpu(),
    "a copy to the GPU": lambda: torch.ones(3).to("cuda"),
    "a mask": lambda: there(3)[there(3) > 0],
    "a mask's values": lambda: there(3).__setitem__(there(3) > 0, there(3)),
    "rows": lambda: there(3)[ROWS],
    "places": lambda: torch.where(there(3) > 0),
    "counts": lambda: there(3).repeat_interleave(ROWS.cuda().sum().expand(3)),
    "a picture of it": lambda: repr(there(3)),
    "values": lambda: torch.tensor([1.0], device="cuda"),
}


@pytest.mark.parametrize("call", WAITS.values(), ids=WAITS)
def test_waiting_for_the_gpu_is_seen(call: Callable[[], object]) -> None:
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_threads_started_within_are_followed_and_files_hold_no_place() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(there(1).is_cuda))
    thread.start()
    thread.join()
    assert found == [True]
    file = io.BytesIO()
    torch.save(there(1), file)
    file.seek(0)
    assert not torch.load(file, map_location="cpu").is_cuda

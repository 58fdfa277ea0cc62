"""A GPU that isn't there: tensors in host memory that say they are on `cuda:0` and are held to it.

Within `pretended_gpu()` torch sees one GPU. What runs there runs on the CPU, so it is slow and
rounds as a CPU does. But nothing computes with tensors of both devices, NumPy can't have those of
the GPU, a draw there needs a generator of its own, a forked process can't use it, and the usual
waits for it (`WAITING`, masks, copies) are seen by torch's debug mode for synchronisation.

CUDA's own code doesn't run: no kernels, streams, graphs, NCCL or memory, and no second process.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # looks through all of torch when it is imported, so not within
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRETENDED = bool(os.environ.get("EDJE_PRETENDED_GPU"))  # by this whole process
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
THERE, PINNED = "_on_pretended_gpu", "_pinned_for_pretended_gpu"  # marks of tensors

FACTS: dict[Any, Any] = {  # of a tensor on the GPU
    Tensor.device.__get__: GPU,
    Tensor.is_cuda.__get__: True,
    Tensor.is_cpu.__get__: False,
    Tensor.get_device: 0,
}
MOVING = {Tensor.to, Tensor.cpu, Tensor.cuda}
ACROSS = {  # from one device to the other, or blind to devices
    Tensor.copy_,
    Tensor.data.__set__,
    Tensor.grad.__set__,
    Tensor.type_as,
    torch.is_same_size,
    torch._has_compatible_shallow_copy_type,
}
WAITING = {  # for values on the GPU
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__),
    *(Tensor.__index__, Tensor.__contains__, Tensor.equal, torch.equal),
    *(Tensor.nonzero, torch.nonzero, Tensor.masked_select, torch.masked_select),
    *(Tensor.unique, torch.unique, Tensor.unique_consecutive, torch.unique_consecutive),
    *(Tensor.argwhere, torch.argwhere, Tensor.bincount, torch.bincount, Tensor.__repr__),
}
REPEATING = {Tensor.repeat_interleave, torch.repeat_interleave}
HOLDING = {torch.tensor, torch.as_tensor}  # values of the host


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor is on the pretended GPU."""
    return THERE in tensor.__dict__


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in their lists and mappings."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from tensors_in(value.values())
        elif isinstance(value, list | tuple | set):
            yield from tensors_in(value)


class Places(TorchFunctionMode):
    """Follows torch's functions in a thread, and marks which tensors are on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()
        self.on_wait: Any = "default"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, on tensors of one device alone."""
        named = dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None:
            if func in FACTS:
                return FACTS[func] if is_there(first) else func(first)
            if func in MOVING:
                return self._moved(func, first, args[1:], named)
            if func == Tensor.grad.__get__:
                found = func(first)
                return found if found is None else self._marked(found, is_there(first))
            if func is Tensor.is_pinned:
                return PINNED in first.__dict__
            if func is Tensor.pin_memory:
                return self._pinned(first)
            if func is Tensor.__reduce_ex__:
                return self._pickled(first, *args[1:])
            if func in (Tensor.numpy, Tensor.__array__) and is_there(first):
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"
                )
        return self._computed(func, args, named)

    def _computed(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = list(tensors_in((args, named)))
        device, pin = named.pop("device", None), named.pop("pin_memory", False)
        if any(map(is_there, given)):
            self._check(func, args, given)
            if func in WAITING or _waits_by_arguments(func, args, named):
                self._wait(func)
        if func is Tensor.copy_ and isinstance(args[1], Tensor):
            waits = not named.get("non_blocking", args[2] if len(args) > 2 else False)
            if waits and is_there(args[0]) != is_there(args[1]):
                self._wait(func)
        if device is None:
            in_place = _is_in_place(func, args)
            there = is_there(args[0]) if in_place else any(map(is_there, given))
        else:
            there = torch.device(device).type == "cuda"
            if not there:
                named["device"] = device
            elif func in HOLDING and args and not _all_there(args):
                self._wait(func)
        if there and isinstance(named.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        result = func(*args, **named)
        if func == Tensor.data.__set__:
            self._marked(args[0], is_there(args[1]))
        known = {id(one) for one in given}
        for one in tensors_in((result,)):
            if id(one) not in known:
                self._marked(one, there)
                if pin:
                    one.__dict__[PINNED] = True
        return result

    def _check(self, func: Any, args: tuple[Any, ...], given: list[Tensor]) -> None:
        """Only single numbers may come from the host, and rows that pick from a tensor there."""
        if func in ACROSS:
            return
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            picks = list(tensors_in((args[1],)))
            if not is_there(args[0]) and any(map(is_there, picks)):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor"
                )
            if not picks:  # a copy
                return
            given = [args[0], *tensors_in(args[2:])]
        alone = func in (torch.cat, torch.stack) or (
            _is_in_place(func, args) and not is_there(args[0])
        )
        if any(map(is_there, given)) and any(
            not is_there(one) and (one.dim() > 0 or alone) for one in given
        ):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({getattr(func, '__qualname__', func)})"
            )

    def _moved(
        self, func: Any, tensor: Tensor, given: tuple[Any, ...], named: dict[str, Any]
    ) -> Tensor:
        """The tensor on another device or in another number format: itself or a copy."""
        target: Any = named.pop("device", {Tensor.cpu: CPU, Tensor.cuda: GPU}.get(func))
        waits, kept = not named.pop("non_blocking", False), []
        for one in (*given, named.pop("other", None)) if func is Tensor.to else ():
            if isinstance(one, Tensor):
                target = GPU if is_there(one) else CPU
                kept.append(one.dtype)
            elif isinstance(one, bool):  # the first of `non_blocking` and `copy`
                waits = waits and not one
            elif isinstance(one, str | int | torch.device):
                target = one
            elif one is not None:
                kept.append(one)
        kind = "cuda" if isinstance(target, int) else target and torch.device(target).type
        if kind not in (None, "cpu", "cuda"):
            return tensor.to(target, *kept, **named)
        there = is_there(tensor) if kind is None else kind == "cuda"
        if there != is_there(tensor) and waits:
            self._wait(func)
        found = tensor.to(*kept, **named) if kept or named else tensor
        if found is tensor:
            if there == is_there(tensor):
                return tensor
            found = tensor.clone()
        return self._marked(found, there)

    def _pinned(self, tensor: Tensor) -> Tensor:
        if is_there(tensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors")
        found = tensor.clone()
        found.__dict__[PINNED] = True
        return found

    def _pickled(self, tensor: Tensor, *given: Any) -> Any:
        marks = tensor.__dict__
        own = {name: marks.pop(name) for name in (THERE, PINNED) if name in marks}
        try:
            return tensor.__reduce_ex__(*given)
        finally:
            marks.update(own)

    def _marked(self, tensor: Tensor, there: bool) -> Tensor:
        if there:
            if os.getpid() != self.process:
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
            tensor.__dict__[THERE] = True
        else:
            tensor.__dict__.pop(THERE, None)
        return tensor

    def _wait(self, func: Any) -> None:
        said = f"called a synchronizing CUDA operation ({getattr(func, '__qualname__', func)})"
        if self.on_wait in (2, "error"):
            raise RuntimeError(said)
        if self.on_wait in (1, "warn"):
            warnings.warn(said, stacklevel=4)

    def set_wait(self, mode: int | str) -> None:
        """As `torch.cuda.set_sync_debug_mode`."""
        self.on_wait = mode


def _waits_by_arguments(func: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether a size is known on the GPU alone, or rows are brought there first."""
    if func in (Tensor.__getitem__, Tensor.__setitem__) and is_there(args[0]):
        picks = list(tensors_in((args[1],)))
        fills = func is Tensor.__setitem__ and not isinstance(args[2], Tensor)
        has_mask = any(one.dtype == torch.bool and is_there(one) for one in picks)
        return (has_mask and not fills) or any(not is_there(one) for one in picks)
    if func is torch.where:
        return len(args) + len(named) == 1
    return func in REPEATING and named.get("output_size") is None and _counts_there(args, named)


def _counts_there(args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    counts = named.get("repeats", args[1] if len(args) > 1 else args[0])
    return isinstance(counts, Tensor) and is_there(counts)


def _all_there(values: Any) -> bool:
    found = list(tensors_in(values))
    return bool(found) and all(map(is_there, found))


def _is_in_place(func: Any, args: tuple[Any, ...]) -> bool:
    name = getattr(func, "__name__", "")
    is_of_tensor = bool(args) and isinstance(args[0], Tensor)
    return is_of_tensor and (
        name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    )


class Stream:
    """Of work that is done at once; its events too."""

    def __init__(self, *_: Any, **__: Any):
        self.device = GPU

    def nothing(self, *_: Any, **__: Any) -> None:
        """As there is nothing to wait for."""

    synchronize = wait_stream = wait_event = record = wait = nothing

    def is_capturing(self) -> bool:
        """Never: there are no graphs."""
        return False

    def query(self) -> bool:
        """Whether all is done."""
        return True


def _nothing(*_: Any, **__: Any) -> None: ...


def _set_device(device: torch.device) -> None:
    if device.index is None:
        raise ValueError(f"Expected a torch.device with a specified index, but got: {device}")


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a device's type, asked of the CPU instead of the GPU."""
    return lambda *given, **named: function(
        *("cpu" if one == "cuda" else one for one in given),
        **{name: "cpu" if one == "cuda" else one for name, one in named.items()},
    )


CUDA: dict[str, Any] = {
    **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), _always(True)),
    **{"device_count": _always(1), "current_device": _always(0)},
    **{"get_device_name": _always("pretended GPU"), "get_device_capability": _always((9, 0))},
    "get_device_properties": _always(
        SimpleNamespace(name="pretended GPU", major=9, minor=0, total_memory=8 << 30)
    ),
    "mem_get_info": _always((6 << 30, 8 << 30)),
    **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), _always(0)),
    **{"set_device": _set_device, "device": _always(nullcontext())},
    **dict.fromkeys(("synchronize", "empty_cache", "_lazy_init"), _nothing),
    **dict.fromkeys(("reset_peak_memory_stats", "manual_seed", "manual_seed_all"), _nothing),
    **dict.fromkeys(("set_rng_state", "set_rng_state_all"), _nothing),
    "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)],
    "is_current_stream_capturing": _always(False),
    **{"Stream": Stream, "Event": Stream, "stream": lambda stream: nullcontext()},
    **dict.fromkeys(("current_stream", "default_stream"), Stream),
}
ACCELERATOR: dict[str, Any] = {
    **{"is_available": _always(True), "device_count": _always(1)},
    **{"current_accelerator": _always(torch.device("cuda")), "current_device_index": _always(0)},
    **{"set_device_index": _nothing, "synchronize": _nothing, "current_stream": Stream},
}


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Torch sees one GPU in the block, in this thread and in those that are started in it."""
    places, run, make = Places(), threading.Thread.run, Tensor._make_subclass
    group = torch._C._group_tensors_by_device_and_dtype
    autocast = torch.amp.autocast_mode.autocast

    def followed(thread: threading.Thread) -> None:
        with places:
            run(thread)

    def made(kind: Any, data: Tensor, *given: Any, **named: Any) -> Tensor:
        """A parameter, where its data is."""
        return places._marked(make(kind, data, *given, **named), is_there(data))

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        """Lists of tensors that are all on one device, by number format."""
        device = GPU if any(is_there(one) for one in lists[0] if one is not None) else CPU
        return {(device, key[1]): value for key, value in group(lists, with_indices).items()}

    replaced = [
        *((torch.cuda, name, value) for name, value in CUDA.items()),
        (torch.cuda, "set_sync_debug_mode", places.set_wait),
        *((torch.accelerator, name, value) for name, value in ACCELERATOR.items()),
        (autocast, "__init__", _on_host(autocast.__init__)),
        (torch, "is_autocast_enabled", _on_host(torch.is_autocast_enabled)),
        (torch, "get_autocast_dtype", _on_host(torch.get_autocast_dtype)),
        (torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU}),
        (torch, "compile", lambda function, **_: function),
        (torch._C, "_group_tensors_by_device_and_dtype", grouped),
        (Tensor, "_make_subclass", staticmethod(made)),
        (Tensor, "record_stream", _nothing),
        (threading.Thread, "run", followed),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(places)
        yield

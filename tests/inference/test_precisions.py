"""Where and in which number format a reranker computes: what is asked for, what is there."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from edje.errors import EdjeError
from edje.inference import precisions
from edje.inference.precisions import device_of, has_bf16, precision_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def set_products(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    monkeypatch.setattr("edje.inference.precisions.has_int8_products", lambda: here)


def set_bf16(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    monkeypatch.setattr("edje.inference.precisions.has_bf16", lambda device: here)


@pytest.mark.parametrize("asked", [None, "cpu", torch.device("cpu")])
def test_without_a_gpu_it_is_the_cpu(
    monkeypatch: pytest.MonkeyPatch, asked: str | torch.device | None
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of(asked) == CPU


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of(None) == CUDA


def test_each_gpu_is_asked_for_its_own_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def made_current(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr("torch.cuda.device", made_current)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: current[-1] == 1)
    assert [has_bf16(torch.device("cuda", number)) for number in range(3)] == [False, True, False]


@pytest.mark.parametrize("asked", ["cuda:77", "xpu", "gpu", "", "cpu:x"])
def test_a_device_that_isnt_there_is_named(asked: str) -> None:
    with pytest.raises(EdjeError, match=rf"device={asked}: is not available here .*Use cpu"):
        device_of(asked)


@pytest.mark.parametrize("of_run", [torch.float32, torch.bfloat16, torch.float16])
def test_by_default_it_is_the_runs(monkeypatch: pytest.MonkeyPatch, of_run: torch.dtype) -> None:
    set_bf16(monkeypatch, True)
    assert precision_of(None, of_run, CPU) == precision_of(None, of_run, CUDA) == of_run


@pytest.mark.parametrize("asked", [None, "bf16", torch.bfloat16])
def test_bf16_is_float32_without_instructions_for_it_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str | torch.dtype | None,
) -> None:
    set_bf16(monkeypatch, False)
    precisions._say_fp32.cache_clear()
    with caplog.at_level("INFO"):
        assert precision_of(asked, torch.bfloat16, CPU) == torch.float32
    assert "precision bf16: this cpu has no instructions for it, so fp32 is used" in caplog.text


def test_float32_for_bf16_is_said_once_for_each_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_bf16(monkeypatch, False)
    precisions._say_fp32.cache_clear()
    with caplog.at_level("INFO"):
        for device in (CPU, CUDA, CPU, CUDA, CPU):
            assert precision_of("bf16", torch.float32, device) == torch.float32
    said = [record.getMessage() for record in caplog.records]
    assert ["cpu" in line for line in said] == [True, False] and "this cuda" in said[1]


def test_int8_of_a_run_is_bf16_where_there_are_no_products_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_products(monkeypatch, True)
    assert precision_of(None, torch.int8, CPU) == torch.int8
    for here, right in ((True, torch.bfloat16), (False, torch.float32)):
        set_bf16(monkeypatch, here)
        set_products(monkeypatch, True)
        assert precision_of(None, torch.int8, CUDA) == right
        set_products(monkeypatch, False)
        assert precision_of(None, torch.int8, CPU) == right


def test_int8_that_is_asked_for_is_given_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_products(monkeypatch, True)
    assert precision_of("int8", torch.float32, CPU) == torch.int8
    with pytest.raises(EdjeError, match=r"precision=int8: needs a CPU .* this cuda has none"):
        precision_of("int8", torch.float32, CUDA)
    set_products(monkeypatch, False)
    with pytest.raises(EdjeError, match=r"precision=torch\.int8: needs a CPU .*Use bf16"):
        precision_of(torch.int8, torch.float32, CPU)


@pytest.mark.parametrize("asked", ["fp32", torch.float32])
def test_names_and_types_mean_the_same(asked: str | torch.dtype) -> None:
    assert precision_of(asked, torch.bfloat16, CPU) == torch.float32


@pytest.mark.parametrize("asked", ["bfloat16", "", torch.float64])
def test_another_format_is_named(asked: str | torch.dtype) -> None:
    with pytest.raises(EdjeError, match=f"precision={asked}: expected one of fp32, bf16, fp16"):
        precision_of(asked, torch.float32, CPU)


@pytest.mark.parametrize(("asked", "name"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_a_name_of_torchs_is_told_as_ours(asked: str, name: str) -> None:
    with pytest.raises(EdjeError, match=rf"expected one of .*\. Write {name}\.$"):
        precision_of(asked, torch.float32, CPU)

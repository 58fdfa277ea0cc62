"""Where and in which number format a reranker computes: what is asked for, what is there."""

from dataclasses import replace

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.precisions import device_of, precision_of
from edje.inference.run_choices import choices_of
from tests.tiny.rerankers import tiny_checkpoint

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


@pytest.mark.parametrize("asked", ["cuda:77", "xpu", "gpu", "", "cpu:x"])
def test_a_device_that_isnt_there_is_named(asked: str) -> None:
    with pytest.raises(EdjeError, match=rf"device={asked}: is not available here .*Use cpu"):
        device_of(asked)


@pytest.mark.parametrize("of_run", [torch.float32, torch.float16])
def test_by_default_it_is_the_runs(of_run: torch.dtype) -> None:
    assert precision_of(None, of_run, CPU) == precision_of(None, of_run, CUDA) == of_run


@pytest.mark.parametrize("here", [True, False])
def test_bf16_of_a_run_is_float32_without_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, here: bool
) -> None:
    set_bf16(monkeypatch, here)
    with caplog.at_level("INFO"):
        found = precision_of(None, torch.bfloat16, CPU)
    assert found == (torch.bfloat16 if here else torch.float32)
    said = "its run scored in bf16, and this cpu has no instructions for it: fp32"
    assert (said in caplog.text) == (not here)


@pytest.mark.parametrize(
    ("said", "right"), [("auto", None), ("bf16", torch.bfloat16), ("another", torch.float32)]
)
def test_a_checkpoint_says_what_its_run_scored_in(said: str, right: torch.dtype | None) -> None:
    checkpoint = replace(tiny_checkpoint(), config=f"scoring: {{precision: {said}}}")
    assert choices_of(checkpoint).precision == right


def test_auto_is_bf16_where_there_are_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, right in ((True, torch.bfloat16), (False, torch.float32)):
        set_bf16(monkeypatch, here)
        assert precision_of("auto", torch.int8, CPU) == precision_of(None, None, CPU) == right


@pytest.mark.parametrize("here", [True, False])
def test_bf16_that_is_asked_for_is_given_with_a_warning_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, here: bool
) -> None:
    set_bf16(monkeypatch, here)
    assert precision_of("bf16", torch.float32, CPU) == torch.bfloat16
    said = "precision=bf16: this cpu has no instructions for products in bf16, so they are several"
    assert (said in caplog.text) == (not here)


def test_int8_of_a_run_is_auto_where_there_are_no_products_in_it(
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
    with pytest.raises(EdjeError, match=r"precision=torch\.int8: needs a CPU .*Use auto"):
        precision_of(torch.int8, torch.float32, CPU)


@pytest.mark.parametrize("asked", ["fp32", torch.float32])
def test_names_and_types_mean_the_same(asked: str | torch.dtype) -> None:
    assert precision_of(asked, torch.bfloat16, CPU) == torch.float32


@pytest.mark.parametrize("asked", ["bfloat16", "", torch.float64])
def test_another_format_is_named(asked: str | torch.dtype) -> None:
    with pytest.raises(EdjeError, match=f"precision={asked}: expected one of auto, fp32, bf16"):
        precision_of(asked, torch.float32, CPU)

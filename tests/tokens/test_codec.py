"""Claims about codecs: sizes as documented, round trips exact at their precision."""

import numpy as np
import pytest
import torch

from edje.errors import EdjeError
from edje.tokens.codec import make_codec

NAMES = ("fp16", "bf16", "fp8", "int8", "int4")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fp16", 49_152),
        ("bf16", 49_152),
        ("fp8", 24_576 + 64 * 4),
        ("int8", 24_576 + 64 * 4),
        ("int4", 12_288 + 64 * 4),
    ],
)
def test_cells_have_their_documented_size(name: str, size: int) -> None:
    codec = make_codec(name, 64, 384)  # type: ignore[arg-type]
    assert codec.cell_bytes == size
    assert codec.encode(torch.zeros(2, 64, 384)).shape == (2, size)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_round_trip_in_16_bits_is_rounding_once(name: str, dtype: torch.dtype) -> None:
    tokens = torch.randn(5, 3, 8) * 10
    codec = make_codec(name, 3, 8)  # type: ignore[arg-type]
    cells = torch.from_numpy(codec.encode(tokens))
    assert torch.equal(codec.decode(cells), tokens.to(dtype).float())
    assert torch.equal(codec.decode(cells, dtype), tokens.to(dtype))


@pytest.mark.parametrize(
    ("name", "error"), [("int8", 0.5 / 127), ("int4", 0.5 / 7), ("fp8", 1 / 16)]
)
def test_scaled_tokens_err_by_at_most_half_a_step(name: str, error: float) -> None:
    tokens = torch.randn(5, 3, 64) * torch.tensor([1e-4, 1.0, 1e4])[None, :, None]
    codec = make_codec(name, 3, 64)  # type: ignore[arg-type]
    decoded = codec.decode(torch.from_numpy(codec.encode(tokens)))
    largest = tokens.abs().amax(dim=2, keepdim=True)
    # whole numbers have even steps; those of fp8 are relative, with three bits of mantissa
    step = largest if name != "fp8" else tokens.abs() + largest / 448 / 64
    assert ((decoded - tokens).abs() <= error * step * 1.0001).all()


@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
def test_the_largest_value_of_a_token_survives_scaling(name: str) -> None:
    tokens = torch.randn(5, 3, 64)
    codec = make_codec(name, 3, 64)  # type: ignore[arg-type]
    decoded = codec.decode(torch.from_numpy(codec.encode(tokens)))
    torch.testing.assert_close(decoded.abs().amax(2), tokens.abs().amax(2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 5, 16])
def test_whole_numbers_of_4_bits_come_back_exactly_at_any_width(width: int) -> None:
    tokens = torch.randint(-7, 8, (5, 3, width)).float()
    tokens[..., 0] = 7  # so that every scale is a power of two
    tokens *= torch.tensor([0.25, 1.0, 64.0])[None, :, None]
    codec = make_codec("int4", 3, width)
    cells = codec.encode(tokens)
    assert cells.shape == (5, codec.cell_bytes) == (5, 3 * ((width + 1) // 2 + 4))
    assert torch.equal(codec.decode(torch.from_numpy(cells)), tokens)


def test_the_first_of_two_numbers_lies_in_the_low_half_of_a_byte() -> None:
    cells = make_codec("int4", 1, 3).encode(torch.tensor([[[7.0, -7.0, 0.0]]]))
    assert cells[0, :2].tolist() == [15 | 1 << 4, 8]
    assert cells[0, 2:].tobytes() == np.float32(1).tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [7, 16])  # scales of 3 × 7 bytes don't begin a word
def test_no_cells_and_one_are_decoded_as_many_are(
    name: str, dtype: torch.dtype, width: int
) -> None:
    codec = make_codec(name, 3, width)  # type: ignore[arg-type]
    cells = torch.from_numpy(codec.encode(torch.randn(2, 3, width)))
    both = codec.decode(cells, dtype)
    assert both.shape == (2, 3, width) and both.dtype == dtype
    for count in (0, 1):
        assert torch.equal(codec.decode(cells[:count], dtype), both[:count])


@pytest.mark.parametrize("name", NAMES)
def test_encoding_what_was_decoded_changes_nothing(name: str) -> None:
    codec = make_codec(name, 3, 16)  # type: ignore[arg-type]
    once = codec.decode(torch.from_numpy(codec.encode(torch.randn(4, 3, 16))))
    twice = codec.decode(torch.from_numpy(codec.encode(once)))
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_low_precision_input_are_stored(name: str) -> None:
    codec = make_codec(name, 3, 16)  # type: ignore[arg-type]
    tokens = torch.randn(4, 3, 16).bfloat16()
    tokens[1] = 0
    decoded = codec.decode(torch.from_numpy(codec.encode(tokens)))
    assert (decoded[1] == 0).all()
    step = tokens.float().abs().amax(2, keepdim=True) / 14 if name == "int4" else 0.02
    assert ((decoded - tokens.float()).abs() <= 0.07 * tokens.abs() + step).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_not_finite_are_refused(name: str, value: float) -> None:
    tokens = torch.zeros(2, 3, 16)
    tokens[1, 2, 3] = value
    with pytest.raises(EdjeError, match="infinite or not numbers"):
        make_codec(name, 3, 16).encode(tokens)  # type: ignore[arg-type]


def test_a_token_too_large_for_fp16_is_refused_and_bf16_recommended() -> None:
    with pytest.raises(EdjeError, match=r"1e\+05 is too large for the codec fp16.*bf16"):
        make_codec("fp16", 1, 2).encode(torch.full((1, 1, 2), 1e5))


@pytest.mark.parametrize("name", NAMES)
def test_a_float64_beyond_float32_is_refused(name: str) -> None:
    with pytest.raises(EdjeError, match=r"1e\+300 is too large for"):
        make_codec(name, 1, 2).encode(torch.full((1, 1, 2), 1e300, dtype=torch.float64))


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(
        EdjeError, match="'fp4' is unknown; choose one of fp16, bf16, fp8, int8, int4"
    ):
        make_codec("fp4", 1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_number_is_found_wherever_it_lies(dtype: torch.dtype, value: float) -> None:
    codec = make_codec("bf16", 1, 37)
    for place in range(37):
        tokens = torch.linspace(-5, 5, 37, dtype=dtype).view(1, 1, 37).clone()
        codec.encode(tokens)
        tokens[0, 0, place] = value
        with pytest.raises(EdjeError, match="infinite or not numbers"):
            codec.encode(tokens)

"""Claims about files of the published format, whatever they are written as."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edje.errors import EdjeError
from edje.inference.published import (
    backbone_problems,
    is_published,
    read_published,
    shared_towers,
)
from tests.inference.straight_line import reference_state

WORDS = "language_model.bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return reference_state(2)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pt", "flat.bin", "one_each.safetensors"])
def test_every_way_of_writing_it_gives_the_same_tensors(tmp_path, state, name) -> None:
    path = tmp_path / name
    if name == "one_each.safetensors":  # as safetensors keeps one name of a tied tensor
        head = "language_model.cls.predictions"
        tied = (WORDS, f"{head}.decoder.weight", f"{head}.bias")
        save_file({key: tensor for key, tensor in state.items() if key not in tied}, path)
    elif name == "flat.bin":
        torch.save(state, path)
    else:
        content = {"model": state, "epoch": 1, "config": {}}
        torch.save(content, path, _use_new_zipfile_serialization=name == "zip.pth")
    assert is_published(path)
    found = read_published(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "other.safetensors", "absent.pth"])
def test_what_is_not_of_the_format_or_cannot_be_read_is_not_published(tmp_path, name) -> None:
    path = tmp_path / name
    if name.startswith("cut"):
        path.write_bytes(b"PK\x03\x04 and no more")
    if name.startswith("other"):
        save_file({"weight": torch.zeros(1)}, path)
    assert not is_published(Path(path))
    if name != "other.safetensors":
        with pytest.raises(EdjeError, match="can't be read as tensors and plain values"):
            read_published(path)


def test_towers_are_found_under_each_of_their_names() -> None:
    weight = torch.arange(4.0)
    towers = {"vision_model.a": weight, "text_model.b": weight, "logit_scale": torch.ones(1)}
    own = {"vision_model.a": "vision_encoder.a", "text_model.b": "clip.text_model.b"}
    named = {name: weight for name in [*own.values(), "clip.logit_scale"]}
    assert shared_towers(named, towers) == own
    longer = {"vision_encoder.vision_model.a": weight}
    assert shared_towers(longer, towers) == {"vision_model.a": "vision_encoder.vision_model.a"}
    assert shared_towers({}, towers) == {}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (lambda t: t.bfloat16(), None),
        (lambda t: t.half(), None),
        (lambda t: t * 1.02, "has other values"),
        (lambda t: t[:3], r"is \(3, 8\) in it, \(5, 8\) in the backbone"),
    ],
)
def test_a_tower_is_the_same_up_to_16_bits(changed, problem) -> None:
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    state = {"clip.vision_model.a": changed(weight)}
    found = list(backbone_problems(state, 8, 8, {"vision_model.a": weight}))
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1 and re.search(problem, found[0])


def test_widths_are_read_off_the_heads(state) -> None:
    assert list(backbone_problems(state, 32, 32, {})) == []
    width, embedding = backbone_problems(state, 24, 48, {})
    assert width == "it reads tokens of width 32, the backbone's have 24"
    assert embedding == "it was trained on embeddings of width 32, the backbone's have 48"

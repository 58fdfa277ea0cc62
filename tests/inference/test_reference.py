"""Checkpoints of the published format give the figures of the reference implementation."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.inference.reference import load_reference_checkpoint
from edje.inference.reranker import Reranker
from edje.language_model import MAX_TRAINING_TOKENS, tokenize
from edje.objectives.distillation import Distillation
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import MaskedWords, StepOutputs
from edje.objectives.text_recovery import TextRecovery
from edje.records import PairBatch
from edje.training.step import forward_step
from tests.inference.straight_line import write_fixture
from tests.tiny.rerankers import tiny_checkpoint
from tests.tiny.shared import PARITY
from tests.tiny.towers import save_siglip

KINDS = ("local", "compressed")
POSITIONS = "language_model.bert.embeddings.position_embeddings.weight"
WORDS = "language_model.bert.embeddings.word_embeddings.weight"


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return write_fixture(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module", params=["own", "recorded"])
def folder(request, own) -> Path:
    """The project's own fixture, and the one recorded with the reference where it is present."""
    if request.param == "own":
        return own
    if not PARITY.is_dir():
        pytest.skip("no recorded fixture beside the project")
    return PARITY


def load(folder: Path, kind: str = "compressed", **changes: Path) -> Reranker:
    places = {"language_model": folder / "language_model", "vision_tower": folder / "vision_tower"}
    return load_reference_checkpoint(folder / f"{kind}_checkpoint.pth", **(places | changes))


@pytest.fixture(scope="module")
def rerankers(folder) -> dict[str, Reranker]:
    return {kind: load(folder, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def expected(folder) -> dict[str, Tensor]:
    return load_file(folder / "expected.safetensors")


@pytest.fixture(scope="module")
def captions(folder) -> list[str]:
    return json.loads((folder / "captions.json").read_text())


@pytest.fixture(scope="module")
def batch(rerankers, expected, captions) -> PairBatch:
    rows = torch.arange(len(captions))
    tokenizer = rerankers["local"].checkpoint.language_model.tokenizer
    return PairBatch(
        sample_ids=rows,
        image_ids=rows,
        caption_keys=rows,
        tokens=expected["vision_tokens"],
        text=tokenize(tokenizer, captions, MAX_TRAINING_TOKENS),
        image_embeddings=expected["image_embedding"],
        text_embeddings=expected["text_embedding"],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_projected_tokens_and_logits_of_all_pairs(rerankers, expected, captions, kind):
    reranker = rerankers[kind]
    visual = reranker.compress(expected["vision_tokens"])
    close(visual, expected[f"{kind}.projected_tokens"])
    for column in range(len(visual)):
        logits = reranker.score(captions, visual[column].expand(len(captions), -1, -1))
        assert logits.dtype == torch.float32
        close(logits, expected[f"{kind}.logits_caption_by_image"][:, column])


@pytest.mark.parametrize("kind", KINDS)
def test_word_pieces_are_the_references(rerankers, expected, captions, kind):
    text = tokenize(rerankers[kind].checkpoint.language_model.tokenizer, captions)
    length = text.input_ids.shape[1]
    ids = expected[f"{kind}.input_ids"]
    for row, mask in enumerate(text.attention_mask):
        assert torch.equal(text.input_ids[row][mask], ids[row, :length][mask])
    tail = expected[f"{kind}.projected_tokens"].shape[1] + 1
    lengths = expected[f"{kind}.inputs_attention_mask"].sum(1) - tail
    assert torch.equal(text.attention_mask.sum(1), lengths)


def test_cleaning_leaves_the_captions_as_they_are(captions):
    assert [clean_caption(caption) for caption in captions] == captions


@pytest.fixture(scope="module")
def outputs(rerankers, expected, batch) -> dict[str, StepOutputs]:
    rows = batch.sample_ids
    negatives = HardNegatives(count=2, pool=2)(
        batch.image_embeddings, batch.text_embeddings, rows, rows, rows, 0, 0
    )
    assert torch.equal(negatives.images, expected["negative_images"])
    assert torch.equal(negatives.captions, expected["negative_captions"])
    length = rerankers["local"].model.joint.cut(batch.text).input_ids.shape[1]
    mask = expected["compressed.mlm_labels"][:, :length] != -100
    needs = frozenset({"pairs", "masked", "text_only", "teacher"})
    mask_id = rerankers["local"].checkpoint.language_model.tokenizer.mask_token_id
    teacher = rerankers["local"].model
    with torch.no_grad():
        return {
            kind: forward_step(reranker.model, batch, negatives, needs, mask, mask_id, teacher)
            for kind, reranker in rerankers.items()
        }


def test_matching_and_distillation_losses(outputs, expected):
    close(Matching()(outputs["compressed"]), expected["compressed.itm_loss"])
    close(Distillation()(outputs["compressed"]), expected["compressed.distillation_loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_text_recovery_loss(outputs, expected, kind):
    close(TextRecovery()(outputs[kind]), expected[f"{kind}.text_recovery_loss"])


def test_masked_language_loss(folder, rerankers, outputs, expected, batch):
    """The reference keeps the image placeholder among the words to choose from; we don't.

    With its row back, the loss is the reference's; without, the other words' logits are the same.
    """
    model = rerankers["compressed"].model
    state = torch.load(folder / "compressed_checkpoint.pth", weights_only=True)["model"]
    head = copy.deepcopy(model.masked_language)
    head.bias = nn.Parameter(state["language_model.cls.predictions.bias"])
    text = model.joint.cut(batch.text)
    mask = expected["compressed.mlm_labels"][:, : text.input_ids.shape[1]] != -100
    mask_id = rerankers["compressed"].checkpoint.language_model.tokenizer.mask_token_id
    ids = text.input_ids.masked_fill(mask, mask_id)
    with torch.no_grad():
        hidden = model.joint(ids, text.attention_mask, model.compress(batch.tokens))
        logits = head(hidden[:, : mask.shape[1]][mask], state[WORDS])
    with_placeholder = StepOutputs(masked=MaskedWords(logits, text.input_ids[mask]))
    close(MaskedLanguage()(with_placeholder), expected["compressed.mlm_loss"])
    close(outputs["compressed"].masked.logits, logits[:, :-1])
    assert torch.equal(outputs["compressed"].masked.labels, text.input_ids[mask])


def test_a_saved_reference_checkpoint_reloads_alone(tmp_path, rerankers, expected, captions):
    reranker = rerankers["compressed"]
    save_checkpoint(reranker.checkpoint, tmp_path / "model.ckpt")
    again = Reranker.from_pretrained(tmp_path / "model.ckpt")
    visual = again.compress(expected["vision_tokens"])
    close(again.score(captions, visual), expected["compressed.logits_caption_by_image"].diagonal())


def changed(own: Path, tmp_path: Path, change) -> Path:
    """The own fixture's folder with a change made to the compressed checkpoint's tensors."""
    content = torch.load(own / "compressed_checkpoint.pth", weights_only=True)
    change(content["model"])
    torch.save(content, tmp_path / "compressed_checkpoint.pth")
    for name in ("language_model", "vision_tower"):
        (tmp_path / name).symlink_to(own / name)
    return tmp_path


def test_heads_and_epsilon_are_the_vision_towers(own, tmp_path):
    adapter = load(own).model.adapter
    assert (adapter.norm.eps, adapter.attention.num_heads) == (0.05, 4)
    with pytest.raises(EdjeError, match=r"vision_tower=.*AttributeError.*CLIP or SigLIP"):
        load(own, vision_tower=own / "language_model")


def test_a_table_without_the_placeholder_gives_the_same_scores(own, tmp_path):
    def drop(state):
        rows = len(state[WORDS])
        state |= {name: t[:-1] for name, t in state.items() if t.shape[:1] == (rows,)}

    visual = torch.randn(1, 2, 24)
    without = load(changed(own, tmp_path, drop))
    close(without.score(["red star"], visual), load(own).score(["red star"], visual))


@pytest.mark.parametrize("rows", [66, 70])
def test_all_rows_of_a_longer_position_table_are_kept(own, tmp_path, rows):
    table = torch.randn(rows, 24)
    model = load(changed(own, tmp_path, lambda s: s.update({POSITIONS: table}))).model
    kept = model.joint.language_model.embeddings.position_embeddings.weight
    assert torch.equal(kept, table)


def test_a_position_table_that_is_too_short_for_the_images_grows_by_its_last_row(own, tmp_path):
    content = torch.load(own / "local_checkpoint.pth", weights_only=True)
    table = content["model"][POSITIONS] = content["model"][POSITIONS][:66]
    torch.save(content, tmp_path / "local.pth")
    model = load_reference_checkpoint(
        tmp_path / "local.pth",
        language_model=own / "language_model",
        vision_tower=own / "vision_tower",
    ).model
    kept = model.joint.language_model.embeddings.position_embeddings.weight
    assert torch.equal(kept, torch.cat([table, table[-1:], table[-1:]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("text_projection.bias"), r"missing text_projection\.bias"),
        (lambda s: s.pop("text_embeddings.weight"), r"missing text_embeddings\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unknown extra"),
        (
            lambda s: s.update({"text_projection.bias": torch.zeros(3)}),
            r"text_projection\.bias is \(3,\), expected \(32,\)",
        ),
        (
            lambda s: s.update({WORDS: torch.zeros(17, 24)}),
            r"word_embeddings\.weight is \(17, 24\), expected \(15, 24\)",
        ),
        (
            lambda s: s.update({POSITIONS: s[POSITIONS][:65]}),
            r"position_embeddings\.weight is \(65, 24\), expected \(66, 24\)",
        ),
        (
            lambda s: s.update({"text_embeddings.weight": s[WORDS] + 1}),
            r"text_embeddings\.weight differs from .*, to which it should be tied",
        ),
        (lambda s: s.pop("vision_projection.mlp.fc1.weight"), r"neither a local adapter"),
    ],
)
def test_every_other_difference_is_an_error(own, tmp_path, change, message):
    with pytest.raises(EdjeError, match=message):
        load(changed(own, tmp_path, change))


class Opener:
    """What a pickle must never be allowed to make."""

    def __reduce__(self):
        return (open, ("/dev/null",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": Opener()}, r"can't be read as tensors.*UnpicklingError"),
        ({"state_dict": {}}, r'no tensors by name under "model"'),
        ({"model": {"query": "text"}}, r'no tensors by name under "model"'),
    ],
)
def test_what_is_no_published_checkpoint_is_refused(own, tmp_path, content, message):
    torch.save(content, tmp_path / "compressed_checkpoint.pth")
    with pytest.raises(EdjeError, match=message):
        load(tmp_path, language_model=own / "language_model", vision_tower=own / "vision_tower")


def test_a_checkpoint_of_ours_is_sent_to_its_own_reader(own, tmp_path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "compressed_checkpoint.pth")
    with pytest.raises(EdjeError, match=r"with Reranker\.from_pretrained"):
        load(tmp_path, language_model=own / "language_model", vision_tower=own / "vision_tower")


def test_a_published_checkpoint_is_sent_to_its_own_reader(own):
    with pytest.raises(EdjeError, match=r"published format.*load_reference_checkpoint"):
        load_checkpoint(own / "compressed_checkpoint.pth")


def test_a_local_checkpoint_of_other_images_is_refused_by_its_positions(own, tmp_path):
    other = save_siglip(tmp_path / "other", image_size=32)
    with pytest.raises(EdjeError, match=r"68 positions were made for 4 vision .* gives 16"):
        load(own, "local", vision_tower=other)


def test_wrong_folders_are_named(own, tmp_path):
    with pytest.raises(EdjeError, match=r"language_model=.*absent: no configuration"):
        load(own, language_model=tmp_path / "absent")
    with pytest.raises(EdjeError, match=r"vision_tower=.*absent: no configuration"):
        load(own, vision_tower=tmp_path / "absent")
    with pytest.raises(EdjeError, match=r"is a 'siglip' with .*; expected a BERT"):
        load(own, language_model=own / "vision_tower")

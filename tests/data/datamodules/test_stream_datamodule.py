"""Claims about batches that are read, decoded and encoded on the fly."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edje.data.datamodules.stream_datamodule import EncodedPairs, StreamDataModule
from edje.data.mixture.listed_pairs import ListedPairs
from edje.data.mixture.pretrain import Mixture, PretrainSource
from edje.data.mixture.streamed_pairs import DecodedPairs, Place
from edje.data.mixture.tar_pairs import TarPairs
from edje.errors import EdjeError, TrainingInterrupted
from edje.inference.checkpoint import checkpoint_fields
from edje.language_model import tokenize
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.text_recovery import TextRecovery
from edje.records import PairBatch
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.gpu.pretended import pretended_gpu
from tests.tiny.image_files import jpeg, write_tar
from tests.tiny.rerankers import FACTS, tiny_checkpoint
from tests.tiny.training import StopAt, quiet_trainer
from tests.tiny.words import WORDS, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*`isinstance.treespec, LeafSpec.`.*",
    "ignore:.*This process .* is multi-threaded, use of fork.*",
)
LISTED, IN_TARS = 30, 24


def caption(number: int) -> str:
    return f"A {WORDS[number % 10]}, {WORDS[number // 10]} {WORDS[number * 7 % 10]}!"


def colour(number: int) -> tuple[int, int, int]:
    return 4 * number, 255 - 3 * number, number * 37 % 256


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images in files and in three tars, each of its own colour and with its own caption."""
    root = tmp_path_factory.mktemp("mixture")
    (root / "images").mkdir()
    entries = []
    for number in range(LISTED):
        (root / "images" / f"{number:03d}.jpg").write_bytes(jpeg(colour(number), 24))
        entries.append({"image": f"{number:03d}.jpg", "caption": caption(number)})
    (root / "list.json").write_text(json.dumps(entries))
    for tar in range(3):
        members: dict[str, bytes | str] = {}
        for number in range(LISTED + tar * 8, LISTED + tar * 8 + 8):
            members[f"{number:03d}.jpg"] = jpeg(colour(number), 24)
            members[f"{number:03d}.txt"] = caption(number)
        write_tar(root / "tars" / f"{tar}.tar", members)
    return {
        "listed": ListedPairs(root=str(root), annotations="list.json", images=["images"]),
        "tars": TarPairs(root=str(root / "tars")),
    }


@pytest.fixture(scope="module")
def mixture(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    cache = tmp_path_factory.mktemp("cache")
    return PretrainSource(sources=sources, evaluated=None, cache_dir=str(cache)).mixture()


def preprocess(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image.resize((3, 3)), dtype=np.float32) / 255)
    return pixels.permute(2, 0, 1)


class Encoder:
    """Fixed random projections: nine tokens of an image, embeddings of both sides."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(3, FACTS.token_width, generator=generator)
        self.text = torch.randn(256, FACTS.embedding_width, generator=generator)
        self.on_device = True

    def __call__(self, pixels: Tensor, texts: list[str]) -> EncodedPairs:
        tokens = pixels.flatten(2).transpose(1, 2) @ self.image
        letters = [torch.tensor(list(text.encode())) for text in texts]
        sums = torch.stack([self.text[own].sum(0) for own in letters])
        return EncodedPairs(
            tokens=tokens,
            text=tokenize(tiny_tokenizer(), texts),
            image_embeddings=F.normalize(tokens.mean(1)[:, : FACTS.embedding_width], dim=1),
            text_embeddings=F.normalize(sums, dim=1),
        )

    def release(self) -> None:
        self.on_device = False


def datamodule(
    mixture: Mixture, policy: str = "skip", here: bool = True, **options: Any
) -> StreamDataModule:
    options = {"batch_size": 6, "num_workers": 0, "window": 2, "tower_precision": "fp32"} | options
    return StreamDataModule(
        mixture, preprocess, Encoder(), policy, 5, lambda device: here, **options
    )


class Seen(L.LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[PairBatch] = []

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(data: StreamDataModule, folder: Path, steps: int) -> list[PairBatch]:
    seen = Seen()
    quiet_trainer(folder, steps).fit(seen, data)
    return seen.batches


def tensors(batch: PairBatch) -> dict[str, Tensor]:
    text = {"ids": batch.text.input_ids, "mask": batch.text.attention_mask}
    return {name: v for name, v in vars(batch).items() if isinstance(v, Tensor)} | text


def assert_equal(first: list[PairBatch], second: list[PairBatch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        expected = tensors(other)
        for name, tensor in tensors(one).items():
            assert torch.equal(tensor, expected[name]), name


def test_a_batch_holds_matching_images_and_captions_of_all_sources(
    mixture: Mixture, tmp_path: Path
) -> None:
    data = datamodule(mixture)
    seen = batches(data, tmp_path, 9)
    assert sorted(torch.cat([batch.sample_ids for batch in seen]).tolist()) == list(range(54))
    for batch in seen:
        assert batch.tokens.shape == (6, FACTS.num_tokens, FACTS.token_width)
        for row, number in enumerate(batch.sample_ids.tolist()):
            expected = torch.tensor(colour(number)) / 255 @ data.encode.image
            assert (batch.tokens[row].mean(0) - expected).abs().max() < 0.1
            words = caption(number).lower().replace(",", "").replace("!", "")
            ids = tokenize(tiny_tokenizer(), [words]).input_ids[0]
            assert torch.equal(batch.text.input_ids[row, : len(ids)], ids)
    images = torch.cat([batch.image_ids for batch in seen]).tolist()
    assert len(set(images)) == 54
    assert not data.encode.on_device  # given back after training


def test_equal_images_and_captions_have_equal_numbers_wherever_they_are_named(
    sources: dict[str, Any], tmp_path: Path
) -> None:
    twice = {"once": sources["listed"], "again": sources["listed"]}
    source = PretrainSource(sources=twice, evaluated=None, cache_dir=str(tmp_path / "cache"))
    seen = batches(datamodule(source.mixture()), tmp_path, 10)
    place = torch.cat([batch.sample_ids for batch in seen]) % LISTED
    for name in ("image_ids", "caption_keys"):
        numbers = torch.cat([getattr(batch, name) for batch in seen])
        same = numbers[:, None] == numbers[None]
        assert torch.equal(same, place[:, None] == place[None])


def test_workers_change_nothing(mixture: Mixture, tmp_path: Path) -> None:
    alone = batches(datamodule(mixture), tmp_path, 12)
    assert_equal(alone, batches(datamodule(mixture, num_workers=2), tmp_path, 12))


def test_by_default_there_are_as_many_workers_as_cores_and_shared_memory_allow(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has six images of three by three pixels."""
    for name in ("room", "whole"):
        monkeypatch.setattr(f"edje.data.datamodules.workers.{name}", lambda: 5 * 6 * 3 * 3 * 3 * 4)
    data = datamodule(mixture, num_workers=None)
    data.trainer = quiet_trainer(tmp_path, 1)
    for cores, workers in ((1, 1), (8, 2)):
        monkeypatch.setattr("edje.data.datamodules.workers.cores", lambda cores=cores: cores)
        assert data.train_dataloader().num_workers == workers
    data.num_workers = 3
    with pytest.raises(EdjeError, match=r"loader\.num_workers=3: .* Use loader\.num_workers=0"):
        data.train_dataloader()


def test_workers_need_no_copy_of_the_tower_however_python_starts_processes(
    mixture: Mixture, tmp_path: Path
) -> None:
    data = datamodule(mixture, num_workers=1)
    data.pairs.preprocess = lambda image: preprocess(image)  # as little to be sent as a used tower
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert_equal(batches(data, tmp_path, 2), batches(datamodule(mixture), tmp_path, 2))
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_two_ranks_see_what_one_sees_in_turns(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = batches(datamodule(mixture), tmp_path, 12)
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    for rank in (0, 1):
        monkeypatch.setattr(L.Trainer, "global_rank", rank)
        data = datamodule(mixture)
        data.trainer = quiet_trainer(tmp_path, 6)
        own = [
            data.on_after_batch_transfer(
                data.transfer_batch_to_device(batch, torch.device("cpu"), 0), 0
            )
            for batch in data.train_dataloader()
        ]
        assert_equal(own, alone[rank::2])


def test_half_precision_stays_near_and_gives_float32(mixture: Mixture, tmp_path: Path) -> None:
    (exact,) = batches(datamodule(mixture), tmp_path, 1)
    (half,) = batches(datamodule(mixture, tower_precision="bf16"), tmp_path, 1)
    assert half.tokens.dtype == half.image_embeddings.dtype == torch.float32
    assert not torch.equal(half.tokens, exact.tokens)
    torch.testing.assert_close(half.tokens, exact.tokens, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("asked", "here", "computed"),
    [("fp32", True, "ieee"), ("bf16", False, "ieee"), ("bf16", True, "tf32")],
)
def test_a_tower_in_float32_is_exact_on_a_gpu_also_where_it_convolves(
    mixture: Mixture, asked: str, here: bool, computed: str
) -> None:
    data, seen, backends = datamodule(mixture, here=here, tower_precision=asked), [], torch.backends
    decoded = data.pairs[Place(0, data.order.at(0, 0, 6))]
    assert isinstance(decoded, DecodedPairs)
    encode = data.encode

    def noting(pixels: Tensor, texts: list[str]) -> EncodedPairs:
        seen.append((backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision))
        return encode(pixels.to("cpu"), texts)

    data.encode = noting
    before = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    with pretended_gpu():
        data.on_after_batch_transfer(decoded.to(torch.device("cuda", 0)), 0)
    assert seen == [(computed, computed)]
    assert before == (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision)


def test_without_instructions_for_bf16_it_is_float32(mixture: Mixture, tmp_path: Path) -> None:
    (exact,) = batches(datamodule(mixture), tmp_path, 1)
    (asked,) = batches(datamodule(mixture, here=False, tower_precision="bf16"), tmp_path, 1)
    assert torch.equal(asked.tokens, exact.tokens)


def trained(
    mixture: Mixture, folder: Path, *callbacks: L.Callback, workers: int, resume: bool = False
) -> RerankerModule:
    """Fourteen micro-steps over a mixture of nine batches, with all objectives of pretraining."""
    torch.manual_seed(0)
    checkpoint = tiny_checkpoint()
    module = RerankerModule(
        checkpoint.model,
        {
            "matching": Matching(),
            "masked_language": MaskedLanguage(),
            "text_recovery": TextRecovery(),
        },
        HardNegatives(count=2, pool=4),
        Optimisation(lr=1e-2, warmup_steps=2),
        mask_id=4,
        steps_per_epoch=9,
        checkpoint_fields=checkpoint_fields(checkpoint),
        seed=5,
    )
    data = datamodule(mixture, num_workers=workers)
    run = quiet_trainer(folder, 7, *callbacks, accumulate_grad_batches=2)
    last = folder / "last.ckpt" if resume else None
    run.fit(module, data, ckpt_path=last, weights_only=True)
    return module


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 1)])
def test_a_run_resumed_within_a_pass_equals_a_straight_one_bitwise(
    mixture: Mixture, tmp_path: Path, before: int, after: int
) -> None:
    straight = trained(mixture, tmp_path / "straight", workers=0)
    with pytest.raises(TrainingInterrupted):
        trained(mixture, tmp_path / "cut", StopAt(6), workers=before)
    resumed = trained(mixture, tmp_path / "cut", workers=after, resume=True)
    fresh = tiny_checkpoint().model.state_dict()
    changed = 0
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
        changed += not torch.equal(tensor, fresh[name])
    assert changed > 20


def test_a_run_resumed_on_other_data_is_told_so(
    mixture: Mixture, caplog: pytest.LogCaptureFixture
) -> None:
    kept = datamodule(mixture).state_dict()
    datamodule(mixture, num_workers=3).load_state_dict(kept)
    assert not caplog.text
    fewer = Mixture(mixture.tables, mixture.roots, mixture.blocks[:-1])
    for other in (datamodule(fewer), datamodule(mixture, window=1)):
        other.load_state_dict(kept)
        assert "come in another order" in caplog.text
        caplog.clear()


@pytest.fixture
def damaged(sources: dict[str, Any], tmp_path: Path) -> Mixture:
    """The mixture, with four broken images in files and one in a tar."""
    for name in ("listed", "tars"):
        source = PretrainSource(
            sources={name: sources[name]}, evaluated=None, cache_dir=str(tmp_path / "cache")
        )
        source.mixture()  # the tables know the images as they were
    root = tmp_path / "damaged"
    mixture = PretrainSource(
        sources=sources, evaluated=None, cache_dir=str(tmp_path / "cache")
    ).mixture()
    for number, original in enumerate(mixture.roots):
        shutil.copytree(original, root / str(number))
    for number in (3, 8, 9, 20):
        (root / "0" / "images" / f"{number:03d}.jpg").write_bytes(b"not a picture")
    pair = mixture.tables[1][10]
    tar = root / "1" / pair.file
    content = bytearray(tar.read_bytes())
    content[pair.offset : pair.offset + pair.size] = bytes(pair.size)
    tar.write_bytes(content)
    return Mixture(mixture.tables, (root / "0", root / "1"), mixture.blocks)


BAD = {3, 8, 9, 20, LISTED + 10}


def test_bad_images_are_replaced_and_counted(
    damaged: Mixture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = datamodule(damaged)
    seen = batches(data, tmp_path, 9)
    rows = torch.cat([batch.sample_ids for batch in seen]).tolist()
    assert len(rows) == 54 and not BAD & set(rows)
    assert set(range(54)) - set(rows) == BAD
    assert data.num_bad >= 5  # a replacement may be bad itself
    assert "bad pair no. 1 of this run, replaced: image" in caplog.text
    assert f"{data.num_bad} bad pairs were replaced by others" in caplog.text
    assert_equal(seen, batches(datamodule(damaged, num_workers=2), tmp_path, 9))


def test_the_count_of_bad_images_survives_an_interruption(damaged: Mixture, tmp_path: Path) -> None:
    straight, before, after = datamodule(damaged), datamodule(damaged), datamodule(damaged)
    quiet_trainer(tmp_path / "straight", 16).fit(Seen(), straight)
    with pytest.raises(TrainingInterrupted):
        quiet_trainer(tmp_path / "cut", 16, StopAt(5)).fit(Seen(), before)
    run = quiet_trainer(tmp_path / "cut", 16)
    run.fit(Seen(), after, ckpt_path=tmp_path / "cut" / "last.ckpt", weights_only=True)
    assert 0 < before.num_bad < after.num_bad == straight.num_bad


def test_bad_images_are_an_error_where_none_is_allowed_or_too_many_are(
    damaged: Mixture, tmp_path: Path
) -> None:
    for workers in (0, 1):
        with pytest.raises(EdjeError, match=r"^image .* is not readable"):
            batches(datamodule(damaged, "error", num_workers=workers), tmp_path, 9)
    with pytest.raises(EdjeError, match=r"^loader\.max_bad=2: there have been 3 bad pairs"):
        batches(datamodule(damaged, max_bad=2), tmp_path, 9)


def test_a_resumed_run_with_too_many_bad_pairs_already_says_so(
    mixture: Mixture, tmp_path: Path
) -> None:
    data = datamodule(mixture, max_bad=2)
    data.load_state_dict(datamodule(mixture).state_dict() | {"num_bad": 3})
    with pytest.raises(EdjeError, match=r"max_bad=2: there have been 3 bad pairs\. Fix them"):
        batches(data, tmp_path, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_gone_altogether_stop_the_run_with_one_message(
    mixture: Mixture, tmp_path: Path, workers: int
) -> None:
    nowhere = Mixture(mixture.tables, (tmp_path / "a", tmp_path / "b"), mixture.blocks)
    with pytest.raises(EdjeError, match=r"^data\.sources: 100 pairs.*still in their place"):
        batches(datamodule(nowhere, num_workers=workers), tmp_path, 1)


def test_a_caption_of_which_cleaning_leaves_nothing_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg((1, 2, 3)))
    texts = ["...", "ok", "🐕", "fine", "&nbsp;", "good"]
    entries = [{"image": "a.jpg", "caption": text} for text in texts]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    source = ListedPairs(root=str(tmp_path), annotations="list.json", images=["."])
    mixture = PretrainSource(
        sources={"odd": source}, evaluated=None, cache_dir=str(tmp_path / "cache")
    ).mixture()
    data = datamodule(mixture)
    (batch,) = batches(data, tmp_path, 1)
    assert set(batch.sample_ids.tolist()) <= {1, 2, 3, 5} and data.num_bad >= 2


def test_one_of_several_captions_is_drawn_anew_at_each_visit(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg((1, 2, 3)))
    entries = [{"image": "a.jpg", "caption": WORDS}] * 6
    (tmp_path / "list.json").write_text(json.dumps(entries))
    source = ListedPairs(root=str(tmp_path), annotations="list.json", images=["."])
    mixture = PretrainSource(
        sources={"many": source}, evaluated=None, cache_dir=str(tmp_path / "cache")
    ).mixture()
    seen = batches(datamodule(mixture), tmp_path, 12)
    words = torch.cat([batch.text.input_ids[:, 1] for batch in seen])
    assert len(words.unique()) == len(WORDS)
    assert_equal(seen, batches(datamodule(mixture), tmp_path, 12))


def test_impossible_values_are_refused(mixture: Mixture, sources: dict[str, Any]) -> None:
    with pytest.raises(EdjeError, match=r"loader\.batch_size=55: .* has 54 pairs"):
        datamodule(mixture, batch_size=55)
    with pytest.raises(EdjeError, match=r"loader\.window=0: expected at least 1"):
        datamodule(mixture, window=0)
    never = TarPairs(root=str(sources["tars"].root), passes=-1.0)
    with pytest.raises(EdjeError, match=r"data\.sources\.tars\.passes=-1\.0: .*above 0"):
        PretrainSource(sources={"tars": never}, evaluated=None)

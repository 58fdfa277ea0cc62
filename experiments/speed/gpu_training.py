"""Training on a GPU: steps on batches on the device, and Lightning's loop over a token store."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from gpu_figures import Lane, Work, in_turns, of_a_run
from gpu_profile import Measured, profile_of
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from edje.benchmark.flops import count_flops
from edje.data.datamodules.cached_datamodule import CachedLoading, CachedTokenDataModule
from edje.data.datamodules.stored_pairs import TrainingSet
from edje.inference.turns import synchronise
from edje.models.adapters import BackboneFacts, TokenCompressionAdapter
from edje.models.edje import EDJE
from edje.models.heads import MatchHead
from edje.models.joint_encoder import JointEncoder
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import Objective
from edje.objectives.text_recovery import TextRecovery
from edje.records import PairBatch, TextBatch
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store
from edje.training.joined_pairs import JoinedPairs
from edje.training.optimisation import Optimisation
from edje.training.reading import MinedPairs
from edje.training.reranker_module import RerankerModule


@dataclass(frozen=True)
class TrainingSizes:
    """SigLIP2 L/16 at 384 pixels, MiniLM-L12, 64 tokens; three negatives per direction."""

    batch: int = 128
    counted: int = 32  # pairs whose arithmetic is counted, which takes more memory than a step
    text_tokens: int = 18
    raw_tokens: int = 576
    raw_width: int = 1024
    heads: int = 16  # of the adapter
    hidden: int = 8192  # of the adapter
    tokens: int = 64
    width: int = 384
    layers: int = 12
    vocabulary: int = 30522
    embedding: int = 1024
    distinct: int = 64  # images with different content
    workers: tuple[int, ...] = (0, 8)
    window: int = 5  # steps between readings of the clock
    windows: int = 4  # the first is not counted
    seconds: float = 20.0
    min_runs: int = 7


TINY = TrainingSizes(8, 8, 6, 9, 16, 2, 32, 4, 32, 2, 50, 12, 4, (0,), 1, 3, 0.2, 2)
SEPARATOR, MASK = 2, 3


def training_figures(device: torch.device, tiny: bool) -> Measured:
    """Image-caption pairs per second; the share is that of the arithmetic (MFU)."""
    sizes = TINY if tiny else TrainingSizes()
    batch, counted = _batch(sizes, sizes.batch, device), _batch(sizes, sizes.counted, device)
    usual: dict[str, Objective] = {
        "matching": Matching(),
        "masked_language": MaskedLanguage(),
        "text_recovery": TextRecovery(),
    }
    name = "training step, three objectives"
    alone, peer = "training step, matching alone", "transformers' BertModel, matching alone"
    steps = {
        name: OurStep(_module(sizes, usual).to(device), batch),
        alone: OurStep(_module(sizes, {"matching": Matching()}).to(device), batch),
        peer: LeanStep(sizes, batch),
    }
    lanes = {
        key: Lane(
            step,
            sizes.batch,
            "pairs/s",
            [Work(count_flops(partial(step, counted)) / sizes.counted * sizes.batch)],
            torch.bfloat16,
            beside=peer if key == alone else None,
        )
        for key, step in steps.items()
    }
    figures, ceilings = in_turns(lanes, device, sizes.seconds, sizes.min_runs)
    profiles = [profile_of(name, steps[name], device)]
    with _training_set(sizes) as training:
        for workers in sizes.workers:
            windows = _loop(_module(sizes, usual), training, sizes, device, workers)
            key = f"training from a store, {workers} loaders, three objectives"
            figures.append(of_a_run(key, lanes[name], windows, ceilings))
    return Measured(figures, profiles)


def _batch(sizes: TrainingSizes, pairs: int, device: torch.device) -> PairBatch:
    rows = torch.arange(pairs, device=device)
    ids = torch.randint(4, sizes.vocabulary, (pairs, sizes.text_tokens), device=device)
    return PairBatch(
        sample_ids=rows,
        image_ids=rows,
        caption_keys=rows,
        tokens=torch.randn(pairs, sizes.raw_tokens, sizes.raw_width, device=device),
        text=TextBatch(ids, torch.ones_like(ids, dtype=torch.bool)),
        image_embeddings=_unit(pairs, sizes.embedding).to(device),
        text_embeddings=_unit(pairs, sizes.embedding).to(device),
    )


def _language_model(sizes: TrainingSizes) -> BertModel:
    config = BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(sizes.width // 32, 1),
        intermediate_size=4 * sizes.width,
    )
    return BertModel(config, add_pooling_layer=False)


def _adapter(sizes: TrainingSizes) -> TokenCompressionAdapter:
    facts = BackboneFacts(sizes.raw_tokens, sizes.raw_width, sizes.heads, 1e-6, sizes.embedding)
    return TokenCompressionAdapter(
        facts.beside(sizes.width), num_tokens=sizes.tokens, hidden_width=sizes.hidden
    )


def _module(sizes: TrainingSizes, objectives: dict[str, Objective]) -> RerankerModule:
    joint = JointEncoder(_language_model(sizes), SEPARATOR, 63, sizes.tokens)
    model = EDJE(_adapter(sizes), joint, sizes.embedding)
    return RerankerModule(model, objectives, HardNegatives(), Optimisation(), MASK, 1000, {})


class Step:
    """Forward in bf16, backward, clipping and AdamW, as Lightning's loop does them."""

    def __init__(self, trained: nn.Module, batch: PairBatch):
        self.trained, self.batch, self.count = trained.train(), batch, 0
        self.weights = [weight for weight in trained.parameters() if weight.requires_grad]
        self.optimizer, _ = Optimisation().build(trained, 1000, 1000)

    def loss(self, batch: PairBatch) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def __call__(self, batch: PairBatch | None = None) -> None:
        """One step, on another batch if one is given."""
        batch = self.batch if batch is None else batch
        with torch.autocast(batch.tokens.device.type, torch.bfloat16):
            loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.count += 1


class OurStep(Step):
    """The training module's own forward."""

    def __init__(self, module: RerankerModule, batch: PairBatch):
        super().__init__(module.model, batch)
        self.module = module

    def loss(self, batch: PairBatch) -> Tensor:
        """The weighted sum of the objectives."""
        outputs = self.module.forward(batch, self.count)
        terms = self.module.objectives.values()
        return torch.stack([term.weight * term(outputs) for term in terms]).sum()


class LeanStep(Step):
    """The obvious version: every pair embeds its own copy of the caption, with a mask."""

    def __init__(self, sizes: TrainingSizes, batch: PairBatch):
        parts = {
            "adapter": _adapter(sizes),
            "language_model": _language_model(sizes),
            "head": MatchHead(sizes.width),
        }
        super().__init__(nn.ModuleDict(parts).to(batch.tokens.device), batch)
        self.parts: Any = parts
        self.negatives = HardNegatives()

    def loss(self, batch: PairBatch) -> Tensor:
        """Cross-entropy of the caption's image, and the image's caption, among negatives."""
        rows = batch.sample_ids
        mined = self.negatives(
            batch.image_embeddings, batch.text_embeddings, rows, rows, rows, 0, self.count
        )
        pairs = MinedPairs.of(mined, JoinedPairs.of(batch))
        visual = self.parts["adapter"](batch.tokens)[pairs.images]
        ids = batch.text.input_ids[pairs.captions]
        separators = torch.full((len(ids), 1), SEPARATOR, device=ids.device)
        words = self.parts["language_model"].get_input_embeddings()
        sequence = torch.cat([words(ids), visual, words(separators)], dim=1)
        mask = torch.ones(sequence.shape[:2], dtype=torch.long, device=ids.device)
        segments = mask.clone()
        segments[:, : ids.shape[1]] = 0
        states = self.parts["language_model"](
            inputs_embeds=sequence, attention_mask=mask, token_type_ids=segments
        ).last_hidden_state
        logits = pairs.candidates_of(self.parts["head"](states[:, 0]))
        first = torch.zeros_like(rows)
        return torch.stack([F.cross_entropy(side, first) for side in logits]).mean()


@contextmanager
def _training_set(sizes: TrainingSizes) -> Iterator[TrainingSet]:
    """Four batches of images, two captions each, in a store that is deleted afterwards."""
    images = 4 * sizes.batch
    content = torch.randn(sizes.distinct, sizes.raw_tokens, sizes.raw_width).to(torch.bfloat16)
    codec = make_codec("bf16", sizes.raw_tokens, sizes.raw_width)

    def encode(rows: range) -> tuple[Tensor, Tensor]:
        these = torch.tensor(rows)
        return content[these % sizes.distinct], torch.zeros(len(rows), sizes.embedding)

    captions = torch.arange(2 * images)
    ids = torch.randint(4, sizes.vocabulary, (len(captions), sizes.text_tokens))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        image_ids = [f"{row:06d}" for row in range(images)]
        fingerprint = Fingerprint({"backbone": "random"})
        write_store(folder, fingerprint, image_ids, codec, sizes.embedding, encode)
        yield TrainingSet(
            store=TokenStore.open(folder),
            store_rows=torch.arange(images),
            text=TextBatch(ids, torch.ones_like(ids, dtype=torch.bool)),
            image_of_caption=captions // 2,
            caption_keys=captions,
            image_embeddings=_unit(images, sizes.embedding),
            text_embeddings=_unit(len(captions), sizes.embedding),
        )


class Windows(L.Callback):
    """Seconds per step over a few steps at a time; the device is synchronised only in between."""

    def __init__(self, steps: int, device: torch.device, clock: Callable[[], float]):
        self.steps, self.device, self.clock = steps, device, clock
        self.looks: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock at the end of a window."""
        if (batch_idx + 1) % self.steps == 0:
            synchronise(self.device)
            self.looks.append(self.clock())

    @property
    def seconds(self) -> list[float]:
        """Seconds per step of each window except the first."""
        pairs = zip(self.looks, self.looks[1:], strict=False)
        return [(later - earlier) / self.steps for earlier, later in pairs]


def _loop(
    module: RerankerModule,
    training: TrainingSet,
    sizes: TrainingSizes,
    device: torch.device,
    workers: int,
) -> list[float]:
    windows = Windows(sizes.window, device, time.perf_counter)
    trainer = L.Trainer(
        max_steps=sizes.window * sizes.windows,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[windows],
    )
    loading = CachedLoading(batch_size=sizes.batch, num_workers=workers)
    data = CachedTokenDataModule(training, None, 0, loading)
    trainer.fit(module, data)
    return windows.seconds


def _unit(count: int, width: int) -> Tensor:
    return F.normalize(torch.randn(count, width), dim=1)

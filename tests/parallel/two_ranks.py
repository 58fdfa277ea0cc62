"""The same pairs in one process and shared by two; run as a script it is one of two ranks."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edje.language_model import MAX_TRAINING_TOKENS, tokenize
from edje.objectives.alignment import Alignment
from edje.objectives.distillation import Distillation
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import Objective
from edje.objectives.text_recovery import TextRecovery
from edje.parallel.collectives import of_every_rank
from edje.parallel.collectives import rank as rank_of_process
from edje.records import PairBatch, TextBatch
from edje.retrieval.recall_metric import recall_metrics
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.tiny.rerankers import COMPRESSION, LOCAL, tiny_checkpoint, tiny_pairs, tiny_reranker
from tests.tiny.words import WORDS, tiny_tokenizer

RANKS, PER_RANK = 2, 6
SHARES = ([5, 0], [2, 3])  # of the queries of dev
CASES: dict[str, tuple[dict[str, Objective], dict[str, Any]]] = {
    "all": (
        {
            "matching": Matching(),
            "masked_language": MaskedLanguage(),
            "text_recovery": TextRecovery(weight=0.5),
            "alignment": Alignment(temperature=0.5),
            "distillation": Distillation(),
        },
        {"residual": True},
    ),
    "all, fused late": (
        {
            "matching": Matching(form="binary"),
            "masked_language": MaskedLanguage(),
            "text_recovery": TextRecovery(),
            "alignment": Alignment(temperature=0.5),
            "distillation": Distillation(form="listwise"),
        },
        {"fusion_layer": 1},
    ),
    "matching": ({"matching": Matching()}, {"adapter": LOCAL}),
    "alignment": ({"alignment": Alignment()}, {"fusion_layer": 1}),
    "few negatives": (
        {
            "matching": Matching(),
            "binary": Matching(form="binary"),
            "distillation": Distillation(),
            "listwise": Distillation(form="listwise"),
        },
        {},
    ),
    "words": ({"masked_language": MaskedLanguage(), "text_recovery": TextRecovery()}, {}),
}


def all_pairs(case: str) -> PairBatch:
    """Captions of rank 0 are short; an image and a caption of rank 0 come again on rank 1.

    With few negatives image 0 has all captions there are: only two pairs of rank 0 know a wrong
    image, and no image of more than one wrong caption.
    """
    batch = tiny_pairs(RANKS * PER_RANK)
    captions = [" ".join(WORDS[(row + at) % 10] for at in range(1 + row)) for row in range(12)]
    captions[7] = " ".join(WORDS[(at * at) % 10] for at in range(70))  # cut beside an image
    captions[9] = captions[2]
    images = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 11])
    keys = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 10, 11])
    if case == "few negatives":
        images, keys = torch.arange(12), torch.zeros(12).long()
        images[[3, 5]], keys[[3, 5]] = 0, 1
    return replace(
        batch,
        sample_ids=torch.arange(12) * 7 + 1,
        image_ids=images,
        caption_keys=keys,
        text=tokenize(tiny_tokenizer(), captions, MAX_TRAINING_TOKENS),
    )


def share(batch: PairBatch, rank: int) -> PairBatch:
    """A rank's part, its texts as long as its longest."""
    rows = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    mask = batch.text.attention_mask[rows]
    longest = int(mask.sum(dim=1).max())
    text = TextBatch(batch.text.input_ids[rows, :longest], mask[:, :longest])
    own = {
        name: value[rows]
        for name, value in vars(batch).items()
        if name != "text" and value is not None
    }
    return PairBatch(**own, text=text)


class Loss(nn.Module):
    """The weighted sum of the objectives, as DistributedDataParallel wraps it."""

    def __init__(self, case: str):
        super().__init__()
        torch.manual_seed(0)
        objectives, options = CASES[case]
        model = tiny_reranker(**({"adapter": COMPRESSION} | options))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.module = RerankerModule(
            model,
            objectives,
            HardNegatives(count=2, pool=4),
            Optimisation(),
            mask_id=4,
            steps_per_epoch=1,
            checkpoint_fields={},
            teacher=tiny_checkpoint(LOCAL).model,
            seed=3,
        )

    def forward(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self.module(batch, 5)
        found = {}
        if outputs.pairs is not None:
            found |= {"t2i_logits": outputs.pairs.t2i, "i2t_logits": outputs.pairs.i2t}
        if outputs.teacher is not None:
            found["teacher_t2i_logits"] = outputs.teacher.t2i
        if outputs.masked is not None:
            found["masked_labels"] = outputs.masked.labels
        found = {name: value.detach() for name, value in found.items()}
        terms = self.module.objectives.values()
        return torch.stack([term.weight * term(outputs) for term in terms]).sum(), found


def results(case: str, batch: PairBatch) -> dict[str, Tensor]:
    """Loss, logits, masked words and the reduced gradient of every trainable parameter."""
    loss = Loss(case)
    trained = loss
    if distributed.is_initialized():
        trained = nn.parallel.DistributedDataParallel(loss)
    value, found = trained(batch)
    value.backward()
    gradients = {f"gradient of {n}": p.grad for n, p in loss.named_parameters() if p.requires_grad}
    return {"loss": value.detach(), **found, **gradients}


DEV_RANKS = torch.tensor([1.0, 4.0, torch.inf, 1.0, 6.0])


def recalls(shares: list[int]) -> dict[str, Tensor]:
    """Recall of the same queries, of which this rank has a share from its place on."""
    first = sum(shares[: rank_of_process()])
    own = DEV_RANKS[first : first + shares[rank_of_process()]]
    return dict(recall_metrics("")(own))


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS
    )
    found: dict[str, Any] = {case: results(case, share(all_pairs(case), rank)) for case in CASES}
    found["texts"] = of_every_rank(f"of rank {rank}")
    found |= {f"recall, {shares}": recalls(shares) for shares in SHARES}
    torch.save(found, folder / f"rank_{rank}.pt")
    distributed.destroy_process_group()

"""The memory that a training step keeps for its backward pass, with and without checkpointing.

`python experiments/speed/gradient_checkpointing.py [local|compression] [pairs] [rounds]`: the
paper's sizes with random weights, 3 negatives, captions of 20 word pieces, bf16 under autocast, one
thread of a CPU. Bytes are those of all tensors saved by autograd, except weights. Times are CPU
seconds of forward and backward, with both methods in turns.
"""

import sys
import time

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig, BertModel

from edje.models.adapters import BackboneFacts, LocalAdapter, TokenCompressionAdapter
from edje.models.edje import EDJE
from edje.models.joint_encoder import JointEncoder
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.text_recovery import TextRecovery
from edje.records import PairBatch, TextBatch
from edje.training.gradient_checkpointing import checkpoint_layers
from edje.training.step import forward_step, masked_positions

CLS, SEP, MASK, LENGTH = 101, 102, 103, 20


def model_of(kind: str) -> EDJE:
    """An adapter for SigLIP2 L/16 at 384 with a MiniLM-L12."""
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        attention_probs_dropout_prob=0.0,  # with it a CPU also keeps the attention matrices
        attn_implementation="sdpa",
    )
    facts = BackboneFacts(576, 1024, 16, 1e-6, 64).beside(384)
    adapter = LocalAdapter(facts) if kind == "local" else TokenCompressionAdapter(facts)
    encoder = BertModel(config, add_pooling_layer=False)
    return EDJE(adapter, JointEncoder(encoder, SEP, 63, adapter.num_tokens), 64).train()


def batch_of(pairs: int) -> PairBatch:
    """Random pairs."""
    words = torch.randint(1000, 30000, (pairs, LENGTH))
    words[:, 0], words[:, -1] = CLS, SEP
    rows, mask = torch.arange(pairs), torch.ones(pairs, LENGTH, dtype=torch.bool)
    text, embeddings = TextBatch(words, mask), torch.randn(2, pairs, 64)
    return PairBatch(rows, rows, rows, torch.randn(pairs, 576, 1024), text, *embeddings)


def step(model: EDJE, batch: PairBatch) -> tuple[float, float]:
    """Gigabytes kept per pair and CPU seconds of one step."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = batch.sample_ids
    start = time.process_time()
    embeddings = batch.image_embeddings, batch.text_embeddings
    negatives = HardNegatives()(*embeddings, rows, rows, rows, 0, 0)
    mask = masked_positions(batch.text, rows, 0.5, 0, 0)
    terms = (Matching(), MaskedLanguage(), TextRecovery())
    needs = frozenset().union(*(term.needs for term in terms))
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        outputs = forward_step(model, batch, negatives, needs, mask, MASK, None)
        loss = torch.stack([term(outputs) for term in terms]).sum()
    size = sum(kept.values()) / len(rows) / 1e9
    loss.backward()
    model.zero_grad()
    return size, time.process_time() - start


def main(kind: str = "local", pairs: str = "2", rounds: str = "3") -> None:
    """Run both methods in turns and print one line per round."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batch, (plain, recomputed) = batch_of(int(pairs)), (model_of(kind) for _ in range(2))
    checkpoint_layers(recomputed)
    for _ in range(int(rounds)):
        (kept, took), (less, longer) = step(plain, batch), step(recomputed, batch)
        sys.stdout.write(
            f"{kind}: {kept:.3f} and {less:.3f} GB per pair, {64 * kept:.1f} and {64 * less:.1f} "
            f"GB at 64; {took:.1f} and {longer:.1f} CPU s, {longer / took:.2f} times\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

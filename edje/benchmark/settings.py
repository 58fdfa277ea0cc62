"""What a benchmark measures: sizes, lanes and durations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from edje.errors import EdjeError
from edje.inference.precisions import PRECISIONS, fast_bf16
from edje.ranges import NonNegativeInt, PositiveInt

Lane = Literal["ours", "research", "lean", "cross_encoder", "blip", "blip_vision"]
LANES: tuple[Lane, ...] = get_args(Lane)
Tier = Literal["scorer", "host", "warm", "cold", "query"]
TIERS: tuple[Tier, ...] = get_args(Tier)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Sizes of the models, of the workload (one query with k candidates) and of the measurement.

    Args:
        lanes: `ours`; `research`: a masked-language BERT with all logits and hidden states, the
            adapter applied to every candidate; `lean`: a plain BERT over stored tokens, always
            with a mask; `cross_encoder`: sentence-transformers' over text pairs of equal length;
            `blip`: BLIP's image-text matching over image features already computed;
            `blip_vision`: the same from pixels.
        tiers: of our lane. `scorer`: tokens on the device; `host`: in host memory; `warm` and
            `cold`: in a token store on disk, in the page cache or not; `query`: text
            encoding, first-stage search, gathering from host memory, scoring, sorting.
        tokens: visual tokens per image; each number is a setting of its own.
        text_tokens: word pieces of the query, [CLS] and [SEP] included.
        candidates: k; each number is a setting of its own.
        peer_candidates: the k used for lanes other than ours; null takes every k.
        fusion_layers: of our lane; each one above 0 is a lane of its own.
        int8: whether our scorer alone is also measured in int8, on a CPU.
        precision: of every lane; auto is bf16 if the hardware has it.
        batch_size: pairs per run of an encoder; with null our scorer and each peer find their own
            fastest one in the warm-up (a peer among 16, 32, 64 and k).
        width: of the language model (by default MiniLM-L12's, as are the four below).
        num_layers: layers of the language model.
        num_heads: attention heads of the language model.
        hidden_width: of its feed-forward.
        vocabulary: number of its word pieces.
        raw_tokens: vision tokens that the research lane compresses per candidate.
        raw_width: width of the vision tokens.
        adapter_hidden_width: of the adapter's feed-forward.
        stored_images: images whose tokens are in host memory, gathered at random.
        corpus: embeddings that the first stage searches exactly.
        text_encoder_width: of the dual encoder's text tower, also of its embeddings.
        text_encoder_layers: layers of the text tower.
        text_encoder_tokens: length to which the text tower's input is padded.
        blip_width: of BLIP's two towers (by default its base model's, as are the two below).
        blip_layers: layers of each.
        blip_image_size: pixels of an image's side, patches of 16.
        blip_candidates: k of BLIP's lanes, which are slow and don't depend on `tokens`.
        clock: `wall` is the time a user waits; `cpu`, CPU seconds of the process, compares lanes
            fairly on a machine that does other work too (use one thread).
        warmup: unmeasured runs of each lane in each setting.
        min_runs: least number of measured runs of each.
        seconds: wall time of a setting (a k with a number of tokens), shared by its lanes.
        longest: seconds that one query's layers may take at the speed of a large matrix product;
            a setting beyond it is left out with a message. null leaves none out.
        runs: a folder of evaluated runs, whose R@1 is plotted against the time of a whole query.
    """

    lanes: Sequence[Lane] = LANES
    tiers: Sequence[Tier] = TIERS
    tokens: Sequence[int] = (16, 32, 64, 128, 576)
    text_tokens: PositiveInt = 18
    candidates: Sequence[int] = (10, 100, 1000)
    peer_candidates: Sequence[int] | None = None
    fusion_layers: Sequence[int] = (0, 8)
    int8: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch_size: PositiveInt | None = None
    width: PositiveInt = 384
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    hidden_width: PositiveInt = 1536
    vocabulary: PositiveInt = 30522
    raw_tokens: PositiveInt = 576
    raw_width: PositiveInt = 1024
    adapter_hidden_width: PositiveInt = 8192
    stored_images: PositiveInt = 1000
    corpus: PositiveInt = 10000
    text_encoder_width: PositiveInt = 768
    text_encoder_layers: PositiveInt = 12
    text_encoder_tokens: PositiveInt = 64
    blip_width: PositiveInt = 768
    blip_layers: PositiveInt = 12
    blip_image_size: PositiveInt = 384
    blip_candidates: PositiveInt = 4
    clock: Literal["wall", "cpu"] = "wall"
    warmup: NonNegativeInt = 1
    min_runs: PositiveInt = 3
    seconds: float = 12.0
    longest: float | None = None
    runs: str | None = None

    def __post_init__(self) -> None:
        if "scorer" not in self.tiers:
            raise EdjeError(
                f"benchmark.tiers={list(self.tiers)}: lacks scorer, which is needed to count the "
                "arithmetic of the others. Add it."
            )
        for k in self.candidates:
            if not 1 <= k <= self.corpus:
                raise EdjeError(
                    f"benchmark.candidates={list(self.candidates)}: {k} candidates can't be drawn "
                    f"from benchmark.corpus={self.corpus}; expected 1 to {self.corpus}. Enlarge "
                    "the corpus."
                )

    def layer_flops(self, tokens: int, k: int) -> int:
        """Arithmetic of the linear layers of a query with k candidates, without any savings."""
        layer = sum(inputs * outputs for inputs, outputs in self.layer_products())
        return 2 * k * (self.text_tokens + tokens + 1) * self.num_layers * layer

    def layer_products(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's linear parts, with the attention's three as one."""
        width, hidden = self.width, self.hidden_width
        return [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]

    def dtype(self, device: torch.device) -> torch.dtype:
        """The number format of every lane."""
        if self.precision == "auto":
            return fast_bf16(device)
        return PRECISIONS[self.precision]

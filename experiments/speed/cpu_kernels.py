"""Our CPU kernels compared with compilers and runtimes: the same scorer with other layers.

    python experiments/speed/cpu_kernels.py [--clock cpu] [--seconds 60] [--formats bf16 fp32]

MiniLM-L12's size, random weights, 18 word pieces, 64 visual tokens, k = 20 and 100, 20 pairs at
once in every lane (method), so that all shapes are static. A lane's scores are compared with
float32's before it is timed; a wrong one is left out. The lanes of a number format and a k take
turns. torchao's, OpenVINO's (openvino, nncf) and ONNX Runtime's (onnxruntime, onnx, onnxscript) run
if they are installed. `--clock cpu` counts CPU seconds, for a busy machine (with
OMP_NUM_THREADS=1).
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from plain_layers import plain_layers
from rich.console import Console
from rich.table import Table
from runtimes import ONNXLayers, OpenVINOLayers
from torch import Tensor, nn

from edje.benchmark.measure import name_of
from edje.benchmark.models import random_reranker, random_text
from edje.benchmark.ours import score_query
from edje.benchmark.peers import LeanRoad
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS, timed_together
from edje.inference.compiled import CompiledLayers
from edje.inference.cpu import has_int8_products
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.models.edje import EDJE
from edje.records import TextBatch

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
TOKENS, CANDIDATES, PAIRS_AT_ONCE = 64, (20, 100), 20
FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Limit of the scores' root mean squared error, in standard deviations of float32's scores.
LARGEST_ERROR = {"fp32": 1e-3, "bf16": 0.15, "int8": 0.3}

Score = Callable[[int], Tensor]


@dataclass(frozen=True)
class Lane:
    """A method to score the first k images, its error, and the seconds it took to build."""

    score: Score
    error: float
    made_in: float


def main(formats: list[str], seconds: float, clock: str) -> None:
    """Build, check, time and print all lanes."""
    torch.manual_seed(0)
    sizes = Benchmark(tokens=[TOKENS])
    model = random_reranker(sizes, TOKENS, 0)
    for parameter in model.joint.language_model.encoder.parameters():
        if parameter.ndim == 2:  # wide enough for the scores of images to differ
            nn.init.normal_(parameter, std=sizes.width**-0.5)
    ids = random_text(sizes, sizes.text_tokens)
    text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    stored = ScoringSet(text, torch.randn(max(CANDIDATES), TOKENS, sizes.width))
    scorers = Scorers(model, stored)
    exact = scorers.ours("fp32")(max(CANDIDATES))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(
        ("format", "lane", *(f"k = {k}" for k in CANDIDATES), "of ours", "error", "made in")
    ):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for name in formats:
        lanes = right_lanes(scorers, name, exact)
        each = seconds / len(formats) / len(CANDIDATES)
        speeds = [speeds_of(lanes, name, k, each, clock) for k in CANDIDATES]
        for lane in speeds[0]:
            ratios = (f"{speed[lane] / speed['ours']:.2f}" for speed in speeds)
            known = lanes.get(lane)
            table.add_row(
                name,
                lane,
                *(f"{speed[lane]:.1f}" for speed in speeds),
                " ".join(ratios),
                "" if known is None else f"{known.error:.1e}",
                "" if known is None else f"{known.made_in:.0f} s",
            )
    title = f"{name_of(CPU)}, torch {torch.__version__}, threads: {torch.get_num_threads()}, "
    title += f"{clock} clock; pairs per second"
    console = Console(width=100)
    console.print(title)
    console.print(table)


class Scorers:
    """The same scorer with different layers."""

    def __init__(self, model: EDJE, stored: ScoringSet):
        self.model, self.stored = model, stored

    def makers(self, name: str) -> Mapping[str, tuple[str, Callable[[], Score]]]:
        """By lane: the format whose error is allowed, and the function that builds it."""
        dtype = FORMATS[name]
        made = {
            "ours": (name, lambda: self.ours(name)),
            "plain torch": (name, lambda: self.of(plain_layers(self.stack, dtype), name)),
            "torch.compile": (name, lambda: self.compiled(plain_layers(self.stack, dtype), name)),
            "torch.compile, frozen": (name, lambda: self.frozen(name)),
            "torchao int8, torch.compile": ("int8", lambda: self.torchao(name)),
            "OpenVINO": (name, lambda: self.openvino(name)),
            "OpenVINO, NNCF's int8": ("int8", lambda: self.openvino(name, calibrated=True)),
        }
        if name == "fp32":
            made["ONNX Runtime"] = (name, self.onnx_runtime)
        if has_int8_products():
            made["ours, int8"] = ("int8", lambda: self.ours("int8"))
        return made

    @property
    def stack(self) -> nn.ModuleList:
        """The language model's layers."""
        return self.model.joint.language_model.encoder.layer

    def ours(self, name: str) -> Score:
        """Our scorer as it is."""
        return scores_of(self._scorer(torch.int8 if name == "int8" else FORMATS[name]))

    def of(self, layers: Callable[[Tensor], Tensor], name: str) -> Score:
        """Our scorer with other layers."""
        scorer = self._scorer(FORMATS[name])
        scorer.encoder.upper = layers
        return scores_of(scorer)

    def compiled(self, layers: nn.Module, name: str) -> Score:
        """Layers compiled by inductor with static shapes."""
        return self.of(CompiledLayers(layers, CPU), name)

    def frozen(self, name: str) -> Score:
        """The same with weights as constants, which inductor lays out for oneDNN."""
        scores = self.compiled(plain_layers(self.stack, FORMATS[name]), name)
        with torch._inductor.config.patch(freezing=True):
            scores(PAIRS_AT_ONCE)
        return scores

    def torchao(self, name: str) -> Score:
        """Linear layers in int8, with dynamic input scales per row."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        layers = plain_layers(self.stack, FORMATS[name])
        quantize_(layers, Int8DynamicActivationInt8WeightConfig())
        scores = self.compiled(layers, name)
        with torch._inductor.config.patch(freezing=True):
            scores(PAIRS_AT_ONCE)
        return scores

    def openvino(self, name: str, *, calibrated: bool = False) -> Score:
        """OpenVINO; in int8, calibrated on the states of the images that are scored."""
        dtype = FORMATS[name]
        states = self._states()
        layers = plain_layers(self.stack, torch.float32)
        return self.of(
            OpenVINOLayers(layers, states[0], dtype, states if calibrated else None), name
        )

    def onnx_runtime(self) -> Score:
        """ONNX Runtime."""
        layers = plain_layers(self.stack, torch.float32)
        return self.of(ONNXLayers(layers, self._states()[0]), "fp32")

    def _states(self) -> list[Tensor]:
        """The layers' inputs for all images, float32, a tensor `(pairs, rows, width)` a batch."""
        seen: list[Tensor] = []
        layers = plain_layers(self.stack, torch.float32)

        def noted(states: Tensor) -> Tensor:
            seen.append(states.float().clone())
            return layers(states)

        self.of(noted, "fp32")(max(CANDIDATES))
        return seen

    def _scorer(self, dtype: torch.dtype) -> StoredTokenScorer:
        return StoredTokenScorer(self.model, self.stored, dtype, PAIRS_AT_ONCE, as_given=True)


def scores_of(scorer: StoredTokenScorer) -> Score:
    """Scores of one query with the first k images."""
    return lambda k: score_query(scorer, torch.arange(k))


def right_lanes(scorers: Scorers, name: str, exact: Tensor) -> dict[str, Lane]:
    """All lanes that can be built here and have right scores."""
    lanes = {}
    for lane, (rounding, make) in scorers.makers(name).items():
        started = time.perf_counter()
        try:
            score = make()
            found = score(len(exact))
        except ImportError as error:
            log.warning("%s, %s: left out (%s)", name, lane, error)
            continue
        error = float(((found - exact) / exact.std()).square().mean().sqrt())
        if not error < LARGEST_ERROR[rounding]:
            log.error("%s, %s: left out, its scores have an error of %.2g", name, lane, error)
            continue
        lanes[lane] = Lane(score, error, time.perf_counter() - started)
    return lanes


def speeds_of(
    lanes: Mapping[str, Lane], name: str, k: int, seconds: float, clock: str
) -> dict[str, float]:
    """Pairs per second of the median run, for all lanes and a plain BERT with a mask."""
    calls: dict[str, Callable[[], object]] = {
        key: lambda lane=lane: lane.score(k) for key, lane in lanes.items()
    }
    sizes = Benchmark(tokens=[TOKENS], precision=name, batch_size=PAIRS_AT_ONCE)
    calls["lean: BertModel, a mask"] = LeanRoad(sizes, TOKENS, k, CPU)
    timings = timed_together(calls, CPU, warmup=1, min_runs=3, seconds=seconds, clock=CLOCKS[clock])
    return {key: k / timing.median for key, timing in timings.items()}


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS], default=[*FORMATS])
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, in total")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall")
    given = parser.parse_args()
    main(given.formats, given.seconds, given.clock)

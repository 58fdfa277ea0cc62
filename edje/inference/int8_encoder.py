"""An encoder whose matrix products over all rows are in int8, on a CPU.

Attention, normalisation, the states between the products and the last layer's single row stay in
bf16. Inside the feed-forward, the first product's activated output goes to the second as int8.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

import torch

from edje.errors import EdjeError
from edje.inference.bert_layer import BertLayer
from edje.inference.cls_encoder import BertClsEncoder
from edje.inference.cpu import Int8Dense, Recorder, has_int8_products
from edje.inference.precisions import NAMES
from edje.inference.turns import Clock, seconds_in_one_thread
from edje.models.joint_encoder import JointEncoder

log = logging.getLogger(__name__)
WORTH_IT = 1.05  # int8 rounds more than other formats, so it must be this much faster


def int8_encoder(
    joint: JointEncoder, rehearse: Callable[[BertClsEncoder], object]
) -> BertClsEncoder:
    """An encoder in int8; `rehearse` runs it on examples, whose ranges become the scales.

    Raises:
        EdjeError: the language model, the device or this build of torch doesn't support int8.
    """
    encoder = BertClsEncoder(joint, torch.bfloat16)
    if encoder.last.expand.weight.device.type != "cpu" or not has_int8_products():
        raise EdjeError(
            "precision int8: its products need a CPU that computes them exactly (with VNNI) and a "
            "torch with oneDNN. Use bf16 here."
        )
    slots = _slots(encoder)
    recorders = [Recorder(getattr(layer, name)) for layer, name in slots]
    for (layer, name), recorder in zip(slots, recorders, strict=True):
        setattr(layer, name, recorder)
    rehearse(encoder)
    made = {}
    for (layer, name), recorder in zip(slots, recorders, strict=True):
        made[layer, name] = Int8Dense(recorder, smooth=name != "contract")
        setattr(layer, name, made[layer, name])
    for (layer, name), product in made.items():
        if name == "expand" and product.fuses:
            product.feeds(made[layer, "contract"])
    return encoder


def is_worth_it(
    in_int8: BertClsEncoder,
    plain: BertClsEncoder,
    pairs: int,
    sequence: int,
    clock: Clock = time.thread_time,
) -> bool:
    """Whether a layer is faster in int8 than in the other's format here; logs both times.

    On a processor with tiles (AMX) it may not be.
    """
    layers = [encoder.rehearsal(sequence) for encoder in (in_int8, plain)]
    calls = [partial(layer, pairs) for layer in layers]
    ours, theirs = (1000 * seconds for seconds in seconds_in_one_thread(calls, clock))
    other = NAMES[plain.precision]
    figures = f"a layer of {pairs} pairs took {ours:.2f} ms in int8, {theirs:.2f} in {other}"
    if WORTH_IT * ours < theirs:
        log.info("precision int8: %s (one thread)", figures)
        return True
    log.warning("precision int8: %s (one thread): using %s, which rounds less", figures, other)
    return False


def _slots(encoder: BertClsEncoder) -> list[tuple[BertLayer, str]]:
    """The products over all rows, by layer and name."""
    names = ("query_key_value", "mix", "expand", "contract")
    slots: list[tuple[BertLayer, str]] = [
        (layer, name) for layer in encoder.layers for name in names
    ]
    return [*slots, (encoder.last, "key_value")]

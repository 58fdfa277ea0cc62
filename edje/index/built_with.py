"""What an index was built with: everything its embeddings and cells depend on, by name."""

import json
from collections.abc import Mapping

from edje.backbones.pretrained import state_digest, weights_digest
from edje.errors import EdjeError
from edje.identity import Value, differing_names
from edje.images.decoder import VERSION
from edje.index.image_table import ImageTable, TableFacts
from edje.inference.reranker import Reranker
from edje.registry import lasting_name
from edje.tokens.codec import make_codec

TOKENS = "visual_tokens"
SHOWN = 40  # characters of a value in a message


def built_with(reranker: Reranker) -> dict[str, Value]:
    """Facts of the backbone, the adapter, the codecs and the decoder, as plain values.

    The joint encoder isn't included: another one can read the same cells.
    """
    checkpoint, choices = reranker.checkpoint, reranker.choices
    return {
        **{f"backbone.{name}": value for name, value in checkpoint.backbone.items()},
        "first_stage": state_digest(checkpoint.first_stage),
        "embedding_width": checkpoint.facts.embedding_width,
        "adapter": lasting_name("adapter", checkpoint.adapter.target),
        "adapter_choices": json.dumps(dict(checkpoint.adapter.choices), sort_keys=True),
        "adapter_weights": weights_digest(reranker.model.adapter),
        TOKENS: int(reranker.model.adapter.num_tokens),
        "visual_width": reranker.model.joint.width,
        "raw_codec": choices.raw_codec,
        "codec": choices.compressed_codec,
        "tower_precision": choices.tower_precision,
        "decoder": VERSION,
    }


def differences(index: Mapping[str, Value], reranker: Mapping[str, Value]) -> list[str]:
    """What differs between an index and a reranker, a phrase per fact."""
    return [
        f"{name}: {_shown(index.get(name))} in the index, {_shown(reranker.get(name))} here"
        for name in differing_names(index, reranker)
    ]


def check_reranker(table: ImageTable, reranker: Reranker) -> None:
    """Refuse a reranker that can't read a table's cells.

    Raises:
        EdjeError: lists the differences, and the command that encodes the pictures with it.
    """
    facts, here = table.facts, built_with(reranker)
    differing = differences(facts.built_with, here)
    if differing:
        tokens = facts.built_with.get(TOKENS)
        fewer = "" if tokens == here[TOKENS] else f", num_tokens={tokens}"
        own = f" ({facts.reranker}{fewer})" if facts.reranker else ""
        raise EdjeError(
            f"the index {table.folder} was built with another reranker: {'; '.join(differing)}. "
            f"Open it with that one{own}, or encode the pictures with this one: edje index "
            f"<folder> --into <new folder> --reranker {reranker.name or '<its path>'}"
        )


def new_facts(reranker: Reranker, given_width: int = 0) -> TableFacts:
    """The facts of a new table; `given_width` is the width of the user's own embeddings."""
    model, choices = reranker.model, reranker.choices
    shape = (int(model.adapter.num_tokens), model.joint.width)
    return TableFacts(
        built_with=built_with(reranker),
        embedding_width=reranker.checkpoint.facts.embedding_width,
        cell_bytes=make_codec(choices.compressed_codec, *shape).cell_bytes,
        given_width=given_width,
        reranker=reranker.name,
    )


def _shown(value: Value | None) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

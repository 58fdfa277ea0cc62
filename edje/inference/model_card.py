"""The model card of a saved reranker: what it is, its measured recall, how to use it."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from huggingface_hub import ModelCardData

from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.inference.named_weights import NamedWeights
from edje.inference.origins import ancestors, described
from edje.inference.run_choices import backbone_values, choices_of
from edje.installed import asset
from edje.packaged import INSTALL, PACKAGES, PREFIX
from edje.part_kinds import Kind
from edje.registry import Part, find, ours
from edje.tokens.codec import make_codec

DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}
STAGES = {"first_stage": "first stage", "reranked": "reranked", "gain": "gain"}
LICENCES = {  # of frozen encoders, by the start of their names, as their makers state them
    "google/siglip": "Apache-2.0",
    "openai/clip": "MIT",
    "facebook/metaclip": "CC BY-NC 4.0",
    "facebook/dinov3": "DINOv3 License",
    "apple/DFN": "Apple's licence for research models",
    "timm/": "as its page on the hub says",
    "sentence-transformers/all-MiniLM": "Apache-2.0",
    "microsoft/MiniLM": "MIT",
}
UNKNOWN_LICENCE = "as its source says"


def model_card(
    checkpoint: Checkpoint,
    metrics: Mapping[str, Any] | None,
    named: Sequence[NamedWeights],
) -> str:
    """The README.md of a saved folder, in Markdown; its notes follow the first paragraph."""
    sources = dict.fromkeys(source for _, source in backbone_sources(checkpoint))
    foreign = foreign_parts(checkpoint)
    weights = [*sources, *(one.source for one in named)]
    started_from = checkpoint.started_from
    bases = [one["repository"] for one in ancestors(started_from) if "repository" in one]
    bases += [source.partition("@")[0] for source in sources if _is_hub_name(source)]
    header = ModelCardData(
        library_name="edje",
        tags=["edje", "reranking", "image-text-retrieval", "vision-language"],
        base_model=list(dict.fromkeys(bases)) or None,
        license=checkpoint.licence or None,
    )
    model, choices = checkpoint.model, choices_of(checkpoint)
    tokens, width = int(model.adapter.num_tokens), model.joint.width
    size = make_codec(choices.compressed_codec, tokens, width).cell_bytes
    parameters = sum(parameter.numel() for parameter in model.joint.parameters())
    trained_on = checkpoint.label
    if started_from:
        trained_on += f", starting from {started_from['name']}"
    also = ", also of what it started from," if started_from else ""
    paragraphs = [
        f"---\n{header.to_yaml()}\n---",
        "# An edje reranker",
        f"It reranks images for a text, and texts for an image, trained on {trained_on}. An "
        f"image is stored as {tokens} tokens of width {width} in {choices.compressed_codec}, "
        f"{size:,} bytes; a joint encoder of {parameters / 1e6:.1f} million parameters reads the "
        f"text with them. Score: {choices.score}.",
        *([checkpoint.notes] if checkpoint.notes else []),
        _USE,
        f"{_installation(foreign, weights)}; it needs neither lightning nor hydra.",
        "## Measured recall",
        "\n".join(_measured(metrics)),
        *(["## Started from", "\n".join(described(started_from))] if started_from else []),
        "## Parts",
        "\n".join([*map(_provided, foreign), *_parts(checkpoint, named)]),
        f"The licence of the training data{also} applies to its users, too.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def backbone_sources(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Each part of the frozen encoder: its key, and the source of its weights."""
    try:
        values = backbone_values(checkpoint)
    except EdjeError:  # a published one that was read from Python
        return [("backbone", str(checkpoint.backbone.get("backbone", "unknown")))]
    return list(_sources(values, "backbone"))


def foreign_parts(checkpoint: Checkpoint) -> list[Part]:
    """The adapter and encoders that aren't edje's own: nothing is loaded without their code."""
    try:
        values = backbone_values(checkpoint)
    except EdjeError:  # a published one that was read from Python
        values = {}
    named: list[tuple[Kind, str]] = [("adapter", checkpoint.adapter.target)]
    named += [("backbone", target) for target in dict.fromkeys(_targets(values))]
    found = [find(kind, name) for kind, name in named if ours(kind, name) is None]
    return [part for part in found if part is not None]


_USE = """## Use

```python
import edje

reranker = edje.Reranker.from_pretrained("<this folder, or its name on the hub>")
reranker.rank("two dogs racing along a beach", ["a.jpg", "b.jpg", "c.jpg"], top_k=2)

encoded = reranker.encode(paths)  # once per image
reranker.rank("two dogs racing along a beach", encoded, top_k=10)  # once per query
```"""


def _installation(foreign: Sequence[Part], weights: Sequence[str]) -> str:
    edje = INSTALL if any(source.startswith(PREFIX) for source in weights) else "pip install edje"
    packages = dict.fromkeys(part.package for part in foreign if _is_installed(part.package))
    registered = [f"`{part.name}`" for part in foreign if part.package not in packages]
    first = f", and first import the code that registers {', '.join(registered)}"
    return f"`{' '.join([edje, *packages])}`{first if registered else ''}"


def _is_installed(package: str) -> bool:
    try:
        return bool(distribution(package))
    except (PackageNotFoundError, ValueError):  # a program's module registered the part
        return False


def _provided(part: Part) -> str:
    kind = "package" if _is_installed(part.package) else "module"
    return f"- {part.kind} `{part.name}`: code of the {kind} {part.package}, not of edje"


def _measured(metrics: Mapping[str, Any] | None) -> Iterator[str]:
    if metrics is None or not DIRECTIONS.keys() & metrics.keys():
        yield "It hasn't been evaluated: `edje task=evaluate checkpoint=<this folder>`."
        return
    facts = [
        f"{metrics.get('dataset')} {metrics.get('split')}",
        *(
            f"{metrics[key]:,} {noun}"
            for key, noun in (("num_images", "images"), ("num_captions", "captions"))
            if key in metrics
        ),
        f"seed {metrics.get('seed')}",
        *(
            f"the best {count} candidates of the first stage, {DIRECTIONS[direction]}"
            for direction, count in metrics.get("num_candidates", {}).items()
        ),
        f"{metrics.get('dtype')} on {metrics.get('device')}",
        f"score: {metrics.get('score')}",
    ]
    yield f"{'; '.join(facts)}. Percent, with 95% bootstrap intervals over images; the intervals"
    yield "of the gain are paired."
    yield ""
    cutoffs = list(next(metrics[d]["first_stage"] for d in DIRECTIONS if d in metrics))
    yield "| | " + " | ".join(cutoff.replace("recall@", "R@") for cutoff in cutoffs) + " |"
    yield "|---" * (len(cutoffs) + 1) + "|"
    for direction, heading in DIRECTIONS.items():
        for stage, name in STAGES.items() if direction in metrics else ():
            cells = (_cell(metrics[direction][stage][cutoff], stage) for cutoff in cutoffs)
            yield f"| {heading}, {name} | " + " | ".join(cells) + " |"


def _cell(estimate: Mapping[str, float], stage: str) -> str:
    sign = "+" if stage == "gain" else ""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _parts(checkpoint: Checkpoint, named: Sequence[NamedWeights]) -> Iterator[str]:
    for key, source in backbone_sources(checkpoint):
        yield f"- {key}, frozen: {_shown(source)}; licence: {licence_of(source)}"
    for one in named:
        yield (
            f"- {len(one.tensors)} tensors of the joint encoder, frozen: those of {one.source}, "
            f"revision {one.revision}, SHA-256 {one.sha256}; licence: {licence_of(one.source)}"
        )
    held = "everything else of the reranker, trained" if named else "the reranker, trained"
    yield f"- {held}: in `model.safetensors`"


def licence_of(source: str) -> str:
    """The licence of a frozen encoder's weights, if known."""
    if source.startswith(PREFIX):
        package = PACKAGES.get(source.removeprefix(PREFIX))
        return package.licence if package else UNKNOWN_LICENCE
    if _is_shipped(source):
        return "MIT, as edje's"
    return next(
        (licence for name, licence in LICENCES.items() if source.startswith(name)), UNKNOWN_LICENCE
    )


def _sources(node: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    for name in ("pretrained", "checkpoint"):
        if isinstance(node.get(name), str) and not isinstance(node.get("vision"), Mapping):
            yield key, node[name]
    if "model" in node and node.get("checkpoint") is None and isinstance(node["model"], str):
        yield key, f"timm/{node['model']}"
    for name in ("vision", "text"):
        if isinstance(node.get(name), Mapping):
            yield from _sources(node[name], f"{key}.{name}")


def _targets(node: Mapping[str, Any]) -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _targets(value)
        elif name == "_target_":
            yield str(value)


def _is_shipped(source: str) -> bool:
    return source.startswith(asset(""))


def _is_hub_name(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((PREFIX, "/", ".", "~", "edje/"))


def _shown(source: str) -> str:
    if _is_shipped(source):
        return f"{source.removeprefix(asset('')).lstrip('/')}, which comes with edje"
    if source.startswith(PREFIX):
        return f"the package {source.removeprefix(PREFIX)}"
    return source if _is_hub_name(source) else "a local file, in `backbone/`"

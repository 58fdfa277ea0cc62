"""The arithmetic and the memory of a run's models, counted without their weights.

Towers and joint encoders are built from their configurations on torch's meta device, which stores
and computes nothing. An adapter is small, so it is built on the CPU with random weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModel, PretrainedConfig

from edje.benchmark.flops import count_flops
from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification, adapter_class
from edje.language_model import MAX_TEXT_TOKENS
from edje.models.adapters import Adapter, BackboneFacts
from edje.models.heads import MaskedLanguageHead
from edje.models.joint_encoder import JointEncoder
from edje.models.joint_options import JointOptions
from edje.packaged import packaged_source
from edje.pipeline.known_models import known_configuration
from edje.pipeline.plan import Sizes
from edje.tokens.codec import CodecName, make_codec

WORDS = 18  # word pieces of a caption, with [CLS] and [SEP]; assumed
LOCAL = AdapterSpecification("edje.models.adapters.LocalAdapter", {})
auto_model: Any = AutoModel  # transformers leaves it untyped
META = torch.device("meta")
SEPARATOR = 0  # any id: only sizes matter


def configuration(name: str, key: str, notes: list[str]) -> PretrainedConfig:
    """A model's configuration from a folder, a package or the hub's cache, or else as published.

    Nothing is downloaded; `notes` gets a line if the published sizes are used.

    Raises:
        EdjeError: it is found in none of these.
    """
    source = packaged_source(name) or name
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(
            source, local_files_only=True, trust_remote_code=False
        )
        return found
    except (OSError, ValueError):
        known = known_configuration(name, key)
    notes.append(f"{key}={name}: its configuration isn't on this machine; sizes as published.")
    return known


class Towers:
    """A CLIP or SigLIP of transformers without weights.

    Raises:
        EdjeError: it is a model of another family.
    """

    def __init__(self, config: Any, keep_class_token: bool = False):
        if config.model_type not in ("clip", "siglip"):
            raise EdjeError(
                f"backbone: task=plan supports CLIP and SigLIP models, got {config.model_type!r}."
            )
        with META:
            self.model: Any = auto_model.from_config(config).eval()
        vision, clip = config.vision_config, config.model_type == "clip"
        self.image_size, self.length = vision.image_size, config.text_config.max_position_embeddings
        self.facts = BackboneFacts(
            (vision.image_size // vision.patch_size) ** 2 + keep_class_token,
            vision.hidden_size,
            vision.num_attention_heads,
            vision.layer_norm_eps,
            config.projection_dim if clip else vision.hidden_size,
        )

    def image_flops(self) -> int:
        """FLOPs of the vision tower, per image."""
        pixels = torch.empty(1, 3, self.image_size, self.image_size, device=META)
        return count_flops(lambda: self.model.get_image_features(pixel_values=pixels))

    def text_flops(self) -> int:
        """FLOPs of the text tower, per caption, padded to full length."""
        ids = torch.zeros(1, self.length, dtype=torch.long, device=META)
        return count_flops(lambda: self.model.get_text_features(input_ids=ids))


class Reading:
    """A joint encoder without weights that reads an adapter's visual tokens."""

    def __init__(self, config: PretrainedConfig, adapter: Adapter, options: JointOptions):
        with META:
            encoder = auto_model.from_config(config)
            if hasattr(encoder, "pooler"):
                encoder.pooler = None  # not used
            self.joint = JointEncoder(
                encoder, SEPARATOR, MAX_TEXT_TOKENS, adapter.num_tokens, options
            )
            self.ids = torch.zeros(1, WORDS, dtype=torch.long)
            self.mask = torch.ones(1, WORDS, dtype=torch.bool)
            self.visual = torch.empty(1, adapter.num_tokens, self.joint.width)
            self.head = MaskedLanguageHead(
                self.joint.width, self.joint.word_embeddings.num_embeddings
            )

    def pair(self) -> Tensor:
        """Read a caption together with the visual tokens of an image."""
        states = self.joint.read_text(self.ids, self.mask, False)
        return self.joint.fuse(states, self.mask, self.visual.to(states.dtype), False)

    def alone_flops(self) -> int:
        """FLOPs for a caption without an image."""
        return count_flops(lambda: self.joint.encode_text(self.ids, self.mask, False))

    def words_flops(self) -> int:
        """FLOPs of the masked-language head on half of a caption's words."""
        states = torch.empty(WORDS // 2, self.joint.width, device=META)
        return count_flops(lambda: self.head(states, self.joint.word_embeddings.weight))

    def kept_bytes(self) -> int:
        """Bytes that a pair keeps for the backward pass in bf16; the kernel keeps no attention."""
        joint = self.joint.to(torch.bfloat16).train()
        length = WORDS + self.visual.shape[1]
        square = {(length, length), (length + 1, length + 1)}
        return kept_bytes(self.pair, joint, lambda shape: shape[-2:] in square)


def counted_sizes(
    towers: Towers,
    language_model: PretrainedConfig,
    adapter: AdapterSpecification,
    options: JointOptions,
    raw_codec: CodecName,
    compressed_codec: CodecName,
) -> Sizes:
    """All figures of a plan; the teacher is local and has the same language model.

    Raises:
        EdjeError: an adapter or a codec rejects its choices.
    """
    facts, width = towers.facts, int(language_model.hidden_size)
    built, taught = (
        adapter_class(one.target)(facts.beside(width), **one.choices) for one in (adapter, LOCAL)
    )
    reading, teaching = (Reading(language_model, one, options) for one in (built, taught))
    tokens = torch.randn(1, facts.num_tokens, facts.token_width)
    codec = make_codec(raw_codec, facts.num_tokens, facts.token_width)
    weights = _weights(built) + _weights(reading.joint) + _weights(reading.head)
    return Sizes(
        image_flops=towers.image_flops(),
        text_flops=towers.text_flops(),
        adapter_flops=count_flops(lambda: built(tokens)),
        pair_flops=count_flops(reading.pair),
        alone_flops=reading.alone_flops(),
        words_flops=reading.words_flops(),
        teacher_flops=count_flops(teaching.pair),
        teacher_adapter_flops=count_flops(lambda: taught(tokens)),
        raw_bytes=codec.cell_bytes,
        compressed_bytes=make_codec(compressed_codec, built.num_tokens, width).cell_bytes,
        embedding_bytes=4 * facts.embedding_width,
        tokens_bytes=4 * facts.num_tokens * facts.token_width,
        kept_pair_bytes=reading.kept_bytes(),
        kept_image_bytes=kept_bytes(lambda: _half(built, tokens), built),
        trained_weights=weights,
        tower_weights=_weights(towers.model),
        teacher_weights=_weights(taught) + _weights(teaching.joint),
    )


def kept_bytes(
    call: Callable[[], Tensor],
    module: nn.Module,
    passed_by: Callable[[tuple[int, ...]], bool] = lambda shape: False,
) -> int:
    """Bytes of the tensors that a call saves for its backward pass, without the module's weights.

    `passed_by` says which shapes aren't counted.
    """
    known = {id(one) for one in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in known and not passed_by(tuple(tensor.shape)):
            kept[id(base)] = base  # held so that no other tensor gets its id
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(tensor.nbytes for tensor in kept.values())


def _half(adapter: Adapter, tokens: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        compressed: Tensor = adapter(tokens)
        return compressed


def _weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())

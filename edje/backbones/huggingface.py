"""Dual encoders of transformers: CLIP (also MetaCLIP, DFN) and SigLIP (also SigLIP2)."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    SiglipImageProcessor,
    SiglipImageProcessorPil,
)

from edje.backbones.pretrained import (
    configuration_facts,
    freeze,
    has_file,
    load_pretrained,
    load_tokenizer,
    load_weights,
    tokenizer_digest,
    weights_digest,
)
from edje.backbones.protocol import Identity, ImageEncoding
from edje.backbones.thin_images import without_far_ends
from edje.errors import EdjeError
from edje.identity import canonical_pixels, plain_size

log = logging.getLogger(__name__)

LAST = "last_hidden_state"

# The fields of an image processor that change pixels; the others are internal to transformers.
PIXEL_FIELDS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


@dataclass(frozen=True)
class _Family:
    """How one family of dual encoders is read."""

    layer: int | str  # where the tokens come from by default
    class_tokens: int  # tokens in front of the patches
    pad_to_max: bool  # captions are padded to full length and read without an attention mask
    lower_case: bool
    image_processors: Mapping[str, type]  # by library, for repositories without one


# SigLIP pools a caption at its last position, pads included, and was trained without a mask.
FAMILIES = {
    "clip": _Family(
        -2,
        1,
        pad_to_max=False,
        lower_case=False,
        image_processors={"pil": CLIPImageProcessorPil, "torchvision": CLIPImageProcessor},
    ),
    "siglip": _Family(
        LAST,
        0,
        pad_to_max=True,
        lower_case=True,
        image_processors={"pil": SiglipImageProcessorPil, "torchvision": SiglipImageProcessor},
    ),
}


class HuggingFaceBackbone(nn.Module):
    """A frozen CLIP or SigLIP of transformers, read from a local folder or the hub.

    Features are the model's own embeddings before normalisation.

    Args:
        pretrained: a folder written by `save_pretrained`, or a hub name.
        layer: where the tokens come from: an index into the vision tower's hidden states (0 is
            the input of the first layer, -1 the output of the last, before the final norm),
            "last_hidden_state", or "auto": -2 for CLIP, "last_hidden_state" (after the final
            norm) for SigLIP, as in section 3 of the paper.
        keep_class_token: whether CLIP's class token is the first of the tokens.
        attention: transformers' implementation of it; all give the same numbers at different
            speeds. eager is faster for small towers on a CPU.
        image_library: what resizes images. The two differ slightly in their pixels. torchvision
            is for older stores and checkpoints of folders without a preprocessor_config.json,
            which were made with it.

    Raises:
        EdjeError: nothing to load under that name, weights are missing or don't fit, no tokenizer
            there, an unsupported family, patches that aren't square, a layer that the tower
            doesn't have, or keep_class_token for a tower without a class token.
    """

    def __init__(
        self,
        *,
        pretrained: str,
        layer: int | str = "auto",
        keep_class_token: bool = False,
        attention: Literal["sdpa", "eager"] = "sdpa",
        image_library: Literal["pil", "torchvision"] = "pil",
    ):
        super().__init__()
        config = load_pretrained(AutoConfig.from_pretrained, pretrained, "configuration")
        self.pretrained = pretrained
        self.family = _family(config.model_type, pretrained)
        _check_sides(config.vision_config, pretrained)
        self.layer = _layer(layer, self.family, config.vision_config.num_hidden_layers)
        if keep_class_token and not self.family.class_tokens:
            raise EdjeError(
                f"keep_class_token=true, but {config.model_type} ({pretrained}) has no class "
                "token; leave keep_class_token out."
            )
        self.keep_class_token = keep_class_token
        self.model: Any
        self.model, _ = load_weights(pretrained, attn_implementation=attention)
        freeze(self.model)
        self.tokenizer = load_tokenizer(pretrained)
        self.image_processor = _image_processor(pretrained, config, self.family, image_library)

        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        self.num_tokens: int = patches + (self.family.class_tokens if keep_class_token else 0)
        self.token_width: int = vision.hidden_size
        self.num_heads: int = vision.num_attention_heads
        self.layer_norm_eps: float = vision.layer_norm_eps
        clip = config.model_type == "clip"
        self.embedding_width: int = config.projection_dim if clip else vision.hidden_size
        self.feature_width: int = self.embedding_width
        self.text_width: int = self.embedding_width
        self.max_text_length: int = config.text_config.max_position_embeddings

    def train(self, mode: bool = True) -> "HuggingFaceBackbone":
        """Stays in evaluation mode: the towers are frozen."""
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        """Sent as configuration and weights: another process lacks the hooks of transformers."""
        sent = self.model.config, self.model.state_dict()
        return self.__dict__ | {"_modules": {}, "sent": sent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, weights = state.pop("sent")
        super().__setstate__(state)
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, then replaced
            self.model = AutoModel.from_config(
                config, dtype=torch.float32, attn_implementation=config._attn_implementation
            )
        self.model.to(next(iter(weights.values())).device)
        self.model.load_state_dict(weights, assign=True)
        freeze(self.model)

    def identity(self) -> Identity:
        """What makes stored image tokens and features comparable."""
        return {
            "backbone": type(self).__name__,
            "model": self.model.config.model_type,
            "weights": self._vision_digest,
            "layer": self.layer,
            "class_token": str(self.keep_class_token),
            "preprocessing": _pixel_settings(self.image_processor),
            "num_tokens": self.num_tokens,
            "token_width": self.token_width,
            "configuration": self._vision_facts(),
        }

    def text_identity(self) -> Identity:
        """What makes stored caption features comparable."""
        config = self.model.config
        pooled_at = ("eos_token_id",) if config.model_type == "clip" else ()
        return {
            "backbone": type(self).__name__,
            "model": config.model_type,
            "weights": self._text_digest,
            "vocabulary": config.text_config.vocab_size,
            "max_length": self.max_text_length,
            "configuration": configuration_facts(config.text_config, *pooled_at),
            "tokenizer": self._tokenizer_digest,
        }

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """The pixels of one RGB image, resized and normalised as the model's own processor does."""
        if _keeps_the_centre(self.image_processor):
            image = without_far_ends(image)
        return self.image_processor(image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageEncoding:
        """Tokens of the chosen layer and the model's image features before normalisation."""
        outputs = self.model.get_image_features(
            pixel_values=pixels, output_hidden_states=self.layer != LAST
        )
        tokens = (
            outputs.last_hidden_state
            if isinstance(self.layer, str)
            else outputs.hidden_states[self.layer]
        )
        if not self.keep_class_token:
            tokens = tokens[:, self.family.class_tokens :]
        return ImageEncoding(tokens=tokens, features=outputs.pooler_output)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch text_features"]:
        """The model's text features before normalisation; long captions are cut at its limit."""
        family = self.family
        batch = self.tokenizer(
            [text.lower() for text in texts] if family.lower_case else list(texts),
            padding="max_length" if family.pad_to_max else "longest",
            padding_side="right",
            truncation=True,
            max_length=self.max_text_length,
            return_tensors="pt",
        ).to(self.model.device)
        mask = None if family.pad_to_max else batch["attention_mask"]
        outputs = self.model.get_text_features(input_ids=batch["input_ids"], attention_mask=mask)
        return outputs.pooler_output

    def project_images(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised image embeddings: the features are already in the common space."""
        return nn.functional.normalize(features, dim=-1)

    def project_texts(
        self, features: Float[Tensor, "batch text_features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised caption embeddings: the features are already in the common space."""
        return nn.functional.normalize(features, dim=-1)

    def _vision_facts(self) -> str:
        """What identities didn't record at first: the configuration, and rare steps of pixels."""
        processor = self.image_processor
        pads = getattr(processor, "do_pad", False)
        padded = getattr(processor, "pad_size", None) if pads else None
        return configuration_facts(
            self.model.config.vision_config,
            pad_size=padded and plain_size(padded),
            crop_pct=getattr(processor, "crop_pct", None),
        )

    @functools.cached_property
    def _tokenizer_digest(self) -> str:
        return tokenizer_digest(self.tokenizer)

    @functools.cached_property
    def _vision_digest(self) -> str:
        towers = nn.ModuleDict({"tower": self.model.vision_model})
        if hasattr(self.model, "visual_projection"):
            towers["projection"] = self.model.visual_projection
        return weights_digest(towers)

    @functools.cached_property
    def _text_digest(self) -> str:
        towers = nn.ModuleDict({"tower": self.model.text_model})
        if hasattr(self.model, "text_projection"):
            towers["projection"] = self.model.text_projection
        return weights_digest(towers)


def _family(model_type: str, pretrained: str) -> _Family:
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    hint = (
        "that is the NaFlex form; take a fixed-resolution one such as "
        "google/siglip2-base-patch16-384"
        if model_type == "siglip2"
        else "take a CLIP or SigLIP checkpoint"
    )
    raise EdjeError(
        f"pretrained={pretrained!r} is a {model_type!r} model; expected one of "
        f"{', '.join(FAMILIES)}: {hint}."
    )


def _check_sides(vision: Any, pretrained: str) -> None:
    for name in ("image_size", "patch_size"):
        side = getattr(vision, name)
        if not isinstance(side, int):
            raise EdjeError(
                f"pretrained={pretrained!r}: its config.json has {name}={side!r}; expected one "
                "number of pixels, the side of a square."
            )


def _layer(layer: int | str, family: _Family, num_layers: int) -> int | str:
    """The chosen layer, counted from the end so that equal choices look alike."""
    if layer == "auto":
        layer = family.layer
    if layer == LAST:
        return LAST
    states = num_layers + 1
    if isinstance(layer, str) or not -states <= layer < states:
        raise EdjeError(
            f"layer={layer!r}: expected 'auto', {LAST!r} or an index from {-states} to "
            f"{states - 1} into the vision tower's {states} hidden states."
        )
    return layer if layer < 0 else layer - states


def _image_processor(pretrained: str, config: Any, family: _Family, library: str) -> Any:
    """The model's image processor; its family's if the repository has none."""
    files = ("preprocessor_config.json", "processor_config.json")
    if any(has_file(pretrained, file) for file in files):
        return load_pretrained(
            AutoImageProcessor.from_pretrained, pretrained, "image processor", backend=library
        )
    side = config.vision_config.image_size
    kind = family.image_processors[library]
    log.warning("%s has no %s: using %s at %d pixels", pretrained, files[0], kind.__name__, side)
    square = {"height": side, "width": side}
    if family.class_tokens:
        return kind(size={"shortest_edge": side}, crop_size=square)
    return kind(size=square)


def _keeps_the_centre(image_processor: Any) -> bool:
    """Whether it scales the shorter side to its own and cuts off what is left of the longer."""
    if not all(getattr(image_processor, step, False) for step in ("do_resize", "do_center_crop")):
        return False
    return dict(image_processor.size).keys() == {"shortest_edge"}


def _pixel_settings(image_processor: Any) -> str:
    settings = {name: getattr(image_processor, name, None) for name in PIXEL_FIELDS}
    kind = {"class": type(image_processor).__name__, "backend": image_processor.backend}
    return canonical_pixels(settings | kind)

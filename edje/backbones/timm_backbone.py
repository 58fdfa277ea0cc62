"""Vision towers of timm: a transformer's tokens, or a flattened feature map."""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from edje.backbones.pretrained import freeze, weights_digest
from edje.backbones.protocol import Identity, ImageEncoding
from edje.backbones.thin_images import without_far_ends
from edje.errors import EdjeError, first_line
from edje.packaged import packaged_source

log = logging.getLogger(__name__)

HEAD_WIDTH = 64  # of the adapter's attention if the tower has no attention of its own
LAYER_NORM_EPS = 1e-6  # likewise; SigLIP's
NAMING_WEIGHTS = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # for timm


class TimmBackbone(nn.Module):
    """A frozen vision tower of timm; it has no text tower.

    Tokens are the last features: a transformer's patches without the class and register tokens
    that timm counts (it doesn't count those of VOLO and CoaT), or a feature map row by row.
    Image features are the model's own pooled ones, before its classifier. A tower without
    attention gets heads of width 64 and a norm epsilon of 1e-6.

    With `stages`, feature maps of earlier stages are averaged to the grid of the last one, and
    their channels are appended to its own (hypercolumns, Hariharan et al., 2015). A classifier's
    last map has lost much of what captions mention, such as colours.

    Args:
        model: a name of `timm.list_models()`.
        checkpoint: a file of weights (.safetensors, or .pth with a state dict), or
            `package:<name>` for a package's file (`edje.packaged`), whose tensors are matched to
            timm's names by order; null takes timm's own weights from the hub.
        model_args: further arguments of `timm.create_model`, for instance `pad_type: same`.
        image_size: side of the square that the tower sees, in pixels.
        resize: "squash" scales both sides to `image_size`; "crop" scales the shorter one and
            keeps the centre.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides the difference.
        feature_image_size: side to which the image is scaled down for its pooled features, in
            pixels; null takes them from the same pass as the tokens.
        stages: earlier stages of the feature map, by their numbers in timm's
            `forward_intermediates`; negative ones count from the end.

    Raises:
        EdjeError: an unknown model or argument, weights that are missing or don't fit, or a
            model whose features are neither tokens nor a map.
    """

    def __init__(
        self,
        *,
        model: str,
        checkpoint: str | None = None,
        model_args: dict[str, Any] | None = None,
        image_size: int = 224,
        resize: Literal["squash", "crop"] = "squash",
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        feature_image_size: int | None = None,
        stages: Sequence[int] = (),
    ):
        super().__init__()
        self.model_name = model
        self.model_args = dict(model_args or {})
        self.image_size = image_size
        self.resize = resize
        self.mean: tuple[float, ...] = tuple(map(float, mean))
        self.std: tuple[float, ...] = tuple(map(float, std))
        self.feature_image_size = feature_image_size
        self.stages = list(stages)
        self.model: Any = _create(model, checkpoint, self.model_args)
        if checkpoint is not None:
            _load(self.model, model, checkpoint)
        freeze(self.model)

        encoding = self._probe()
        self.num_tokens: int = encoding.tokens.shape[1]
        self.token_width: int = encoding.tokens.shape[2]
        self.feature_width: int = encoding.features.shape[1]
        if self.num_tokens == 1:
            log.warning(
                "model=%r gives a single token for an image of %d pixels, so a reranker sees no "
                "parts of it. Take another timm model, or a larger image_size",
                model,
                image_size,
            )
        self.num_heads, self.layer_norm_eps = _attention_settings(self.model, self.token_width)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Stays in evaluation mode: the tower is frozen."""
        return super().train(False)

    def identity(self) -> Identity:
        """What makes stored image tokens and features comparable."""
        preprocessing = {
            "image_size": self.image_size,
            "resize": self.resize,
            "mean": list(map(float, self.mean)),
            "std": list(map(float, self.std)),
        }
        if self.feature_image_size is not None:
            preprocessing["feature_image_size"] = self.feature_image_size
        return {
            "backbone": type(self).__name__,
            "model": self.model_name,
            "model_args": json.dumps(self.model_args, sort_keys=True),
            "weights": self._digest,
            "layer": "+".join(["forward_features", *(f"stage {stage}" for stage in self.stages)]),
            "preprocessing": json.dumps(preprocessing, sort_keys=True),
            "num_tokens": self.num_tokens,
            "token_width": self.token_width,
        }

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Normalised pixels of one image, `image_size` on both sides."""
        side = self.image_size
        image = image.convert("RGB")
        if self.resize == "crop":
            image = without_far_ends(image)
            scale = side / min(image.size)
            width, height = (max(side, round(length * scale)) for length in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        elif image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[
            :, None, None
        ]

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageEncoding:
        """Tokens without class and register tokens, and the model's pooled features."""
        # Convolutions on a CPU are a third faster with the channels last.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if not self.stages:
            values = self.model.forward_features(pixels)
            tokens = self._tokens(values)
        else:
            values, maps = self.model.forward_intermediates(
                pixels, indices=self.stages, stop_early=False
            )
            tokens = torch.cat(
                [self._tokens(values), *(self._resampled(m, values) for m in maps)], 2
            )
        if self.feature_image_size is not None:
            side = (self.feature_image_size, self.feature_image_size)
            pixels = nn.functional.interpolate(pixels, side, mode="bicubic", antialias=True)
            values = self.model.forward_features(pixels)
        features = self.model.forward_head(values, pre_logits=True)
        return ImageEncoding(tokens=tokens, features=features.flatten(1))

    def _resampled(self, stage: Tensor, last: Tensor) -> Float[Tensor, "batch tokens channels"]:
        """A stage's map, channels first in every tower, averaged over the cells of the last map."""
        height, width = last.shape[1:3] if self._channels_last() else last.shape[2:]
        return _flat(nn.functional.adaptive_avg_pool2d(stage, (height, width)))

    def _tokens(self, values: Tensor) -> Float[Tensor, "batch tokens width"]:
        ndim = values.ndim if isinstance(values, Tensor) else 0
        if ndim == 3:
            return values[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if ndim == 4:
            return values.flatten(1, 2) if self._channels_last() else _flat(values)
        given = f"of shape {tuple(values.shape)}" if ndim else f"as a {type(values).__name__}"
        raise EdjeError(
            f"model={self.model_name!r} gives features {given}; expected (batch, tokens, width) "
            "or a feature map. Take another timm model."
        )

    def _channels_last(self) -> bool:
        return getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    def _probe(self) -> ImageEncoding:
        """One empty image through the tower: shows shapes that no attribute of timm gives."""
        try:
            return self.encode_images(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, AssertionError, AttributeError, ValueError, IndexError) as error:
            if self.stages:
                raise EdjeError(
                    f"model={self.model_name!r} gives no maps of stages={self.stages} beside its "
                    f"last one at {self.image_size} pixels ({first_line(error)}). Give stages of "
                    "its feature map (timm's `forward_intermediates`), or none."
                ) from error
            raise EdjeError(
                f"model={self.model_name!r} doesn't take images of {self.image_size} pixels "
                f"({first_line(error)}). Set image_size, or the model's img_size in model_args."
            ) from error

    @functools.cached_property
    def _digest(self) -> str:
        return weights_digest(self.model)


def _create(model: str, checkpoint: str | None, model_args: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(model):
        near = timm.list_models(f"*{model.split('_')[0]}*")[:5]
        raise EdjeError(
            f"model={model!r} is not a model of timm {timm.__version__}; "
            f"near it: {', '.join(near) or 'nothing'}. See timm.list_models()."
        )
    if elsewhere := sorted(NAMING_WEIGHTS & model_args.keys()):
        raise EdjeError(
            f"model_args has {', '.join(elsewhere)}, which would load weights without edje's "
            "checks. Name their file: checkpoint=<file of weights>."
        )
    try:
        return timm.create_model(model, pretrained=checkpoint is None, **model_args)
    except (TypeError, RuntimeError, OSError, ValueError) as error:
        raise EdjeError(
            f"timm can't make model={model!r} with model_args={dict(model_args)} and "
            f"checkpoint={checkpoint!r}: {first_line(error)}. Check model_args; without a "
            "connection to the hub, give checkpoint=<file of weights>."
        ) from error


def _load(module: nn.Module, model: str, given: str) -> None:
    packaged = packaged_source(given)
    checkpoint = packaged or Path(given).expanduser()
    if not checkpoint.is_file():
        raise EdjeError(
            f"checkpoint={given!r} is not a file; expected weights of timm's {model!r}. "
            "Give the path of a .safetensors or .pth file."
        )
    try:
        if checkpoint.suffix == ".safetensors":
            state = load_file(checkpoint)
        else:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
        module.load_state_dict(_named_by_order(state, module) if packaged else state)
    except Exception as error:
        raise EdjeError(
            f"checkpoint={given!r} doesn't fit timm's {model!r}: "
            f"{first_line(error, lines=2)}. Give its own weights, or the model_args of these "
            "weights."
        ) from error


def _named_by_order(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights of another implementation of the same network, renamed by order.

    Raises:
        ValueError: the number of tensors or a shape differs from the module's.
    """
    own = module.state_dict()
    shapes = [[tuple(tensor.shape) for tensor in some.values()] for some in (state, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{len(state)} tensors, expected {len(own)} of the model's shapes in its order"
        )
    return dict(zip(own, state.values(), strict=True))


def _attention_settings(model: nn.Module, width: int) -> tuple[int, float]:
    """The tower's heads and norm epsilon, or the documented values if it has no attention.

    A pooling by attention behind the tower may have other heads.
    """
    inside = [module for name, module in model.named_modules() if not name.startswith("attn_pool")]
    counts = [getattr(module, "num_heads", None) for module in inside]
    own = [count for count in counts if isinstance(count, int) and width % count == 0]
    if own:
        return own[-1], getattr(getattr(model, "norm", None), "eps", LAYER_NORM_EPS)
    most = max(1, width // HEAD_WIDTH)
    return next(heads for heads in range(most, 0, -1) if width % heads == 0), LAYER_NORM_EPS


def _flat(channels_first: Tensor) -> Float[Tensor, "batch tokens channels"]:
    return channels_first.flatten(2).transpose(1, 2).contiguous()

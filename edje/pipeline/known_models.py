"""Configurations of published models that the options name, if their files aren't available."""

from typing import Any

from transformers import BertConfig, CLIPConfig, ModernBertConfig, PretrainedConfig, SiglipConfig

from edje.errors import EdjeError

BASE = {
    **{"hidden_size": 768, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "intermediate_size": 3072},
}
LARGE = {
    **{"hidden_size": 1024, "num_hidden_layers": 24},
    **{"num_attention_heads": 16, "intermediate_size": 4096},
}
SMALL = {
    **{"hidden_size": 512, "num_hidden_layers": 12},
    **{"num_attention_heads": 8, "intermediate_size": 2048},
}
CLIPS = {  # vision tower, image side, patch side, text tower, embedding width
    "openai/clip-vit-base-patch16": (BASE, 224, 16, SMALL, 512),
    "openai/clip-vit-large-patch14": (LARGE, 224, 14, BASE, 768),
    "openai/clip-vit-large-patch14-336": (LARGE, 336, 14, BASE, 768),
    "apple/DFN2B-CLIP-ViT-L-14-39B": (LARGE, 224, 14, BASE, 768),
    "facebook/metaclip-l14-fullcc2.5b": (LARGE, 224, 14, BASE, 768),
}
SIGLIPS = {  # both towers, image side, vocabulary
    "google/siglip-base-patch16-224": (BASE, 224, 32000),
    "google/siglip2-base-patch16-224": (BASE, 224, 256000),
    "google/siglip2-base-patch16-384": (BASE, 384, 256000),
    "google/siglip2-large-patch16-256": (LARGE, 256, 256000),
    "google/siglip2-large-patch16-384": (LARGE, 384, 256000),
}
LANGUAGE_MODELS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "microsoft/MiniLM-L12-H384-uncased": (
        BertConfig,
        {**BASE, "hidden_size": 384, "intermediate_size": 1536},
    ),
    "nreimers/MiniLM-L6-H384-uncased": (
        BertConfig,
        {**BASE, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
    ),
    "google-bert/bert-base-uncased": (BertConfig, BASE),
    "answerdotai/ModernBERT-base": (ModernBertConfig, {}),  # the defaults of transformers
}


def known_configuration(name: str, key: str) -> PretrainedConfig:
    """The configuration of a published model by its hub name.

    Raises:
        EdjeError: it isn't known here.
    """
    if name in CLIPS:
        vision, image_size, patch_size, text, width = CLIPS[name]
        seen = {**vision, "image_size": image_size, "patch_size": patch_size}
        return CLIPConfig(vision_config=seen, text_config=text, projection_dim=width)
    if name in SIGLIPS:
        towers, image_size, words = SIGLIPS[name]
        read = {"vocab_size": words, "projection_size": towers["hidden_size"]}
        return SiglipConfig(
            vision_config={**towers, "image_size": image_size, "patch_size": 16},
            text_config={**towers, **read},
        )
    if name in LANGUAGE_MODELS:
        kind, values = LANGUAGE_MODELS[name]
        return kind(**values)
    raise EdjeError(
        f"{key}={name}: its configuration is neither in a folder of this name nor in the hub's "
        "cache, so its sizes are unknown. Run `hf download <name> config.json`, or give a folder."
    )

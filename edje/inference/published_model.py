"""Published checkpoints by name alone: with the published backbone and language model."""

from pathlib import Path

import yaml
from transformers import AutoConfig

from edje.backbones.option_values import option_values
from edje.backbones.pretrained import load_pretrained
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint
from edje.inference.published import is_published
from edje.inference.reference import reference_checkpoint, tower_facts
from edje.installed import conf_folder

BACKBONE, JOINT = "siglip2_l16_384", "minilm"  # in conf/backbone and conf/joint


def published_checkpoint(given: str | Path, file: Path) -> Checkpoint | None:
    """The reranker of a published file: SigLIP2 L/16 at 384 and MiniLM-L12; None if not published.

    Raises:
        EdjeError: the file doesn't fit these models, or they can't be read.
    """
    if not is_published(file):
        return None
    backbone = option_values(BACKBONE)
    joint = yaml.safe_load((conf_folder() / "joint" / f"{JOINT}.yaml").read_text(encoding="utf-8"))
    tower = backbone["pretrained"]
    load_pretrained(AutoConfig.from_pretrained, tower, "configuration")  # a clearer error
    try:
        return reference_checkpoint(
            str(file),
            joint["pretrained"],
            tower_facts(tower),
            tower,
            config=yaml.safe_dump({"name": file.stem, "backbone": backbone}, sort_keys=False),
            name=str(given),
        )
    except EdjeError as error:
        raise EdjeError(
            f"{error} By name or path alone, it is read with {tower} and {joint['pretrained']}. "
            "For other models use edje.load_reference_checkpoint."
        ) from error

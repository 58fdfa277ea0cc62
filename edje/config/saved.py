"""Configurations as text: resolved for readers, but open to later overrides.

A run's `config.yaml` and the configuration in its checkpoints are resolved: they show every
value. The interpolations behind some values are kept as comments and restored when the text is
read. So `backbone.checkpoint=<path here>` on another machine still reaches every place that
copies it.
"""

import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edje.config.resolution import texts
from edje.errors import EdjeError
from edje.renames import present_configuration

HEADER = "# Interpolations, resolved above; `resume=` and `checkpoint=` restore them:"
LINK = re.compile(r"^#   (?P<key>\S+): (?P<text>.*)$")


def to_text(cfg: DictConfig) -> str:
    """YAML with every interpolation resolved, and the interpolations as comments at the end."""
    text = OmegaConf.to_yaml(cfg, resolve=True)
    sources = texts("", OmegaConf.to_container(cfg, resolve=False))
    links = [f"#   {key}: {source}" for key, source in sources if "${" in source]
    return "\n".join([text.rstrip("\n"), *([HEADER, *links] if links else [])]) + "\n"


def from_text(text: str, source: str) -> DictConfig:
    """The configuration that `to_text` wrote, with its interpolations; `source` is for messages.

    Former names are replaced by the present ones.

    Raises:
        EdjeError: the text is no YAML mapping.
    """
    try:
        cfg = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise EdjeError(f"{source}: can't be read as a configuration: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise EdjeError(f"{source}: expected the configuration of a run, got a {type(text)}.")
    for line in text.splitlines():
        if link := LINK.match(line):
            OmegaConf.update(cfg, link["key"], link["text"], merge=False)
    former: Any = OmegaConf.to_container(cfg)
    return OmegaConf.create(present_configuration(former))

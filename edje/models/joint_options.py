"""The options of a joint encoder, from the configuration to where each is read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from edje.errors import EdjeError
from edje.ranges import NonNegativeInt


@dataclass(frozen=True)
class JointOptions:
    """How a caption and an image's visual tokens meet; a checkpoint keeps each under its name.

    Raises:
        EdjeError: options that don't go together.
    """

    fusion_layer: NonNegativeInt = 0  # layers that the text runs through alone
    frozen_text: bool = False  # whether these layers and the word embeddings stay as they came
    evidence: bool = False  # whether words and tokens are aligned beside the joint layers
    evidence_layers: tuple[int, ...] = ()  # earlier layers whose word states are aligned too
    evidence_dropout: float = 0.0  # share of the words' channels dropped in training

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> "JointOptions":
        """Those of a checkpoint, whose lists become tuples; older ones lack some."""
        known: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value, list) else value
            for field in fields(cls)
            if (value := given.get(field.name)) is not None
        }
        return cls(**known)

    def __post_init__(self) -> None:
        layers = list(self.evidence_layers)
        if (self.evidence or self.frozen_text) and not self.fusion_layer:
            raise EdjeError(
                f"joint.evidence={self.evidence}, joint.frozen_text={self.frozen_text}: both are "
                "about the text before the visual tokens join it. Set joint.fusion_layer to 1 or "
                "more."
            )
        if layers != sorted({layer for layer in layers if 0 <= layer < self.fusion_layer}):
            raise EdjeError(
                f"joint.evidence_layers={layers}: expected ascending layers below "
                f"joint.fusion_layer={self.fusion_layer}, whose own states are read anyway."
            )
        if layers and not self.evidence:
            raise EdjeError(
                f"joint.evidence_layers={layers}: nothing reads them. Set joint.evidence=true, or "
                "joint.evidence_layers=[]."
            )
        if not 0 <= self.evidence_dropout < 1:
            raise EdjeError(
                f"joint.evidence_dropout={self.evidence_dropout}: expected 0 to below 1."
            )


PLAIN = JointOptions()  # visual tokens from the first layer on, nothing beside

"""The options of a joint encoder, checked together."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from edje.errors import EdjeError
from edje.ranges import NonNegativeInt


@dataclass(frozen=True)
class JointOptions:
    """How a caption and an image's visual tokens are joined; checkpoints keep each option by name.

    Raises:
        EdjeError: options conflict.
    """

    fusion_layer: NonNegativeInt = 0  # layers that the text runs through alone
    frozen_text: bool = False  # whether they and the word embeddings stay as pretrained
    evidence: bool = False  # whether words and tokens are also aligned outside the joint layers
    evidence_layers: tuple[int, ...] = ()  # earlier layers whose word states are aligned too
    evidence_dropout: float = 0.0  # share of the words' channels dropped in training

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> "JointOptions":
        """The options in a checkpoint, with lists as tuples; older checkpoints lack some."""
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
                f"joint.fusion_layer={self.fusion_layer}, whose own states are always used."
            )
        if layers and not self.evidence:
            raise EdjeError(
                f"joint.evidence_layers={layers}: nothing uses them. Set joint.evidence=true, or "
                "joint.evidence_layers=[]."
            )
        if not 0 <= self.evidence_dropout < 1:
            raise EdjeError(
                f"joint.evidence_dropout={self.evidence_dropout}: expected 0 to below 1."
            )


PLAIN = JointOptions()  # visual tokens from the first layer on, nothing else

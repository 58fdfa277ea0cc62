"""A package of a user's own, made on the spot: an adapter, an objective and a backbone."""

from pathlib import Path

ADAPTER = '''
from typing import Literal

from edje.models.adapters import LocalAdapter


class FirstTokens(LocalAdapter):
    """Keeps the first tokens."""

    def __init__(self, facts, *, num_tokens: int, hidden_width: int = 32,
                 side: Literal["left", "right"] = "left"):
        super().__init__(facts, hidden_width=hidden_width)
        self.num_tokens = num_tokens

    def forward(self, tokens):
        return super().forward(tokens[:, : self.num_tokens])
'''
OBJECTIVE = '''
from edje.objectives.outputs import Objective


class Shrink(Objective):
    """Keeps the logits small."""

    needs = frozenset({"pairs"})

    def __init__(self, *, weight: float = 1.0, power: int = 2):
        super().__init__(weight=weight)
        self.power = power

    def __call__(self, outputs):
        return outputs.pairs.t2i.abs().pow(self.power).mean()
'''
BACKBONE = '''
from edje.backbones.huggingface import HuggingFaceBackbone


class Seen(HuggingFaceBackbone):
    """A dual encoder of ours under another name."""

    def __init__(self, *, pretrained: str):
        super().__init__(pretrained=pretrained)
'''
POINTS = """
[edje.adapters]
first_tokens = house_parts.adapter:FirstTokens
broken = house_parts.broken:Thing

[edje.objectives]
shrink = house_parts.objective:Shrink

[edje.backbones]
seen = house_parts.backbone:Seen
"""
NAME = "house-parts"  # as it is installed; it is imported as house_parts


def make_package(folder: Path, points: str = POINTS, name: str = NAME) -> Path:
    """Install the package into a folder, which is then to be put on `sys.path`."""
    package = folder / "house_parts"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "adapter.py").write_text(ADAPTER)
    (package / "objective.py").write_text(OBJECTIVE)
    (package / "backbone.py").write_text(BACKBONE)
    (package / "broken.py").write_text("import a_library_that_nobody_has\n\nclass Thing: ...\n")
    facts = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(points)
    return folder

"""Text recovery: the joint encoder's text state keeps the dual encoder's embedding."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


class TextRecovery(Objective):
    """1 − cos(projected [CLS] state of the text only, the dual encoder's text embedding)."""

    needs: ClassVar[frozenset[Part]] = frozenset({"text_only"})

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean over the batch, between 0 and 2."""
        texts = outputs.text_only
        assert texts is not None
        cosine = F.cosine_similarity(texts.embeddings.float(), texts.targets.float())
        return (1 - cosine).mean()

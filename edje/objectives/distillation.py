"""Distillation: the compressed student learns to match the uncompressed teacher's logits."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import (
    Objective,
    Part,
    Presence,
    StepOutputs,
    mean_of_negatives,
    mean_of_rows,
    without_absent,
)


class Distillation(Objective):
    """Match the student's logits to a frozen teacher's on the same pairs.

    `binary` is the published form: binary cross-entropy against σ(teacher), the mean of the means
    over positives, negative images and negative captions. `listwise` is the divergence
    KL(teacher ‖ student) over [positive, negatives] of each direction, which ignores the level
    of the teacher's logits (softmax matching doesn't determine that level).
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"pairs", "teacher"})

    def __init__(self, *, weight: float = 1.0, form: Literal["binary", "listwise"] = "binary"):
        super().__init__(weight=weight)
        self.form = form

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """The chosen form's mean over the batch."""
        teacher, student = outputs.teacher, outputs.pairs
        assert teacher is not None and student is not None
        t2i, i2t = student.t2i.float(), student.i2t.float()
        of_t2i, of_i2t = student.t2i_presence, student.i2t_presence
        if self.form == "listwise":
            return (_kl(t2i, teacher.t2i, of_t2i) + _kl(i2t, teacher.i2t, of_i2t)) / 2
        positives = (
            _bce(t2i[:, 0], teacher.t2i[:, 0]).mean() + _bce(i2t[:, 0], teacher.i2t[:, 0]).mean()
        ) / 2
        images = mean_of_negatives(_bce(t2i[:, 1:], teacher.t2i[:, 1:]), of_t2i)
        captions = mean_of_negatives(_bce(i2t[:, 1:], teacher.i2t[:, 1:]), of_i2t)
        return (positives + images + captions) / 3


def _bce(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.float().sigmoid(), reduction="none")


def _kl(student: Tensor, teacher: Tensor, presence: Presence | None) -> Tensor:
    """KL divergence of each sample's list, averaged over the samples."""
    divergence = F.kl_div(
        without_absent(student, presence).log_softmax(-1),
        without_absent(teacher.float(), presence).log_softmax(-1),
        log_target=True,
        reduction="none",
    )
    return mean_of_rows(divergence.sum(dim=1), presence)

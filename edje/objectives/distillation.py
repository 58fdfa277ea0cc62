"""Distillation: the compressed student learns the uncompressed teacher's logits."""

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
    KL(teacher ‖ student) over [positive, negatives] of each direction, which is blind to the level
    of the teacher's logits (softmax matching leaves that level free).
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"pairs", "teacher"})

    def __init__(self, *, weight: float = 1.0, form: Literal["binary", "listwise"] = "binary"):
        super().__init__(weight=weight)
        self.form = form

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """The chosen form's mean over the batch."""
        teacher_t2i, teacher_i2t = outputs.teacher_t2i_logits, outputs.teacher_i2t_logits
        assert teacher_t2i is not None and teacher_i2t is not None
        assert outputs.t2i_logits is not None and outputs.i2t_logits is not None
        student_t2i, student_i2t = outputs.t2i_logits.float(), outputs.i2t_logits.float()
        of_t2i, of_i2t = outputs.t2i_presence, outputs.i2t_presence
        if self.form == "listwise":
            t2i = _kl(student_t2i, teacher_t2i, of_t2i)
            return (t2i + _kl(student_i2t, teacher_i2t, of_i2t)) / 2
        positives = (
            _bce(student_t2i[:, 0], teacher_t2i[:, 0]).mean()
            + _bce(student_i2t[:, 0], teacher_i2t[:, 0]).mean()
        ) / 2
        images = mean_of_negatives(_bce(student_t2i[:, 1:], teacher_t2i[:, 1:]), of_t2i)
        captions = mean_of_negatives(_bce(student_i2t[:, 1:], teacher_i2t[:, 1:]), of_i2t)
        return (positives + images + captions) / 3


def _bce(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.float().sigmoid(), reduction="none")


def _kl(student: Tensor, teacher: Tensor, presence: Presence | None) -> Tensor:
    """Of each sample's list, averaged over the samples."""
    divergence = F.kl_div(
        without_absent(student, presence).log_softmax(-1),
        without_absent(teacher.float(), presence).log_softmax(-1),
        log_target=True,
        reduction="none",
    )
    return mean_of_rows(divergence.sum(dim=1), presence)

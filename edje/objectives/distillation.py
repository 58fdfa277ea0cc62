"""Distillation: the compressed student learns the uncompressed teacher's logits."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


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
        if self.form == "listwise":
            return (_kl(student_t2i, teacher_t2i) + _kl(student_i2t, teacher_i2t)) / 2
        positives = (
            _bce(student_t2i[:, 0], teacher_t2i[:, 0]) + _bce(student_i2t[:, 0], teacher_i2t[:, 0])
        ) / 2
        negative_images = _bce(student_t2i[:, 1:], teacher_t2i[:, 1:])
        negative_captions = _bce(student_i2t[:, 1:], teacher_i2t[:, 1:])
        return (positives + negative_images + negative_captions) / 3


def _bce(student: Tensor, teacher: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.float().sigmoid())


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(
        student.log_softmax(-1),
        teacher.float().log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )

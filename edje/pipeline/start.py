"""What the weights of a training run are before its first step: the choices of `start`."""


class FreshStart:
    """Random weights, a function of the seed."""

    def __init__(self) -> None:
        pass


class CheckpointStart:
    """Another training's weights, wherever name and shape agree.

    Args:
        path: a run folder, a .ckpt, or the file or hub name of a published checkpoint.
    """

    def __init__(self, *, path: str):
        self.path = path


class CanonicalStart:
    """Adapter and evidence in closed form, from canonical correlations of the training set."""

    def __init__(self) -> None:
        pass


class ContrastiveStart:
    """As the canonical start, the maps then trained on the means of images and captions."""

    def __init__(self) -> None:
        pass

"""A run's result on the console."""

from rich.console import Console, RenderableType

from edje.config.terminal import stop_talking


def show(result: RenderableType) -> None:
    """Print a run's result."""
    _ResultConsole().print(result)


class _ResultConsole(Console):
    """A console with which a closed pipe doesn't end the program, as Rich would."""

    def on_broken_pipe(self) -> None:
        stop_talking()

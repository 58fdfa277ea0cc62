"""A run's result on the console."""

from rich.console import Console, RenderableType

from edje.config.terminal import stop_talking


def show(result: RenderableType) -> None:
    """Print a run's result."""
    _ResultConsole().print(result)


class _ResultConsole(Console):
    """Rich would end the program where the reader of a pipe has gone; the run goes on."""

    def on_broken_pipe(self) -> None:
        stop_talking()

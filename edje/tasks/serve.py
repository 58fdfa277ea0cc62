"""Serve: a search page and endpoints for an index, until a signal arrives."""

from pathlib import Path

from omegaconf import DictConfig

from edje.errors import EdjeError
from edje.quiet import quiet_libraries
from edje.serving.serve_command import ServeChoices, serve
from edje.tasks.wiring import plain


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=serve`: like `edje serve`; an access token is only read from the environment.

    Raises:
        EdjeError: no index is given, or as `serve`.
    """
    quiet_libraries()
    chosen = plain(cfg.serve)
    if chosen["index"] is None:
        raise EdjeError(
            "task=serve needs serve.index=<folder of an index>. Make one: edje index <folder of "
            "pictures> --into photos.edje"
        )
    serve(ServeChoices(**chosen))

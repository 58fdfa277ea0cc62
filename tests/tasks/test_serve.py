"""Claims about task=serve."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from edje.errors import EdjeError
from edje.serving.serve_command import ServeChoices
from edje.tasks import serve as task


def test_it_serves_what_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[ServeChoices] = []
    monkeypatch.setattr(task, "serve", served.append)
    chosen = {"index": "photos.edje", "reranker": None, "host": "127.0.0.1", "port": 0}
    task.run(OmegaConf.create({"serve": chosen}), tmp_path)
    assert served == [ServeChoices("photos.edje", port=0)]
    with pytest.raises(EdjeError, match=r"serve\.index=<folder of an index>"):
        task.run(OmegaConf.create({"serve": chosen | {"index": None}}), tmp_path)

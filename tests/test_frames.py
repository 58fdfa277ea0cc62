"""How deep the house is: calls of ours between the command line and where the work is done."""

import sys
from pathlib import Path
from types import FrameType

import pytest

import edje
from edje.backbones.huggingface import HuggingFaceBackbone
from edje.cli import main
from edje.training.reranker_module import RerankerModule
from tests.tiny.world import make_world, with_changes

PACKAGE = str(Path(edje.__file__).parent)
MOST = {"training_step": 5, "encode_images": 9}


def above(frame: FrameType | None) -> list[str]:
    """The functions of ours that are running, the innermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        frame = frame.f_back
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_few_frames_lie_between_the_command_line_and_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[str]]] = {name: [] for name in MOST}

    def watch(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def watched(self, *arguments):
            seen[name].append(above(sys._getframe(1)))
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, watched)

    watch(RerankerModule, "training_step")
    watch(HuggingFaceBackbone, "encode_images")
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    overrides = with_changes(make_world(tmp_path), "trainer.max_steps=1", folder)
    monkeypatch.setattr(sys, "argv", ["run.py", *overrides])
    assert main() == 0
    for name, most in MOST.items():
        assert seen[name], f"{name} was not called"
        for frames in seen[name]:
            assert frames[-1] == "cli.py:main"
            assert len(frames) <= most, f"{name}: {frames}"

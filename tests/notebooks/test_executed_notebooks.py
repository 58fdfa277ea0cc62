"""The notebooks executed by a kernel of Jupyter, on runs that the commands in them make."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SHORT = (
    *("data.train_images=48", "data.val_images=8", "data.test_images=16", "data.unique_among=8"),
    *("trainer.max_steps=3", "optim.warmup_steps=1", "trainer.accelerator=cpu"),
    "trainer.log_every_n_steps=1",
)
NUMBER = r"-?[\d,]+(\.\d+)?"
ANSWERS = {
    "tour_of_a_run.ipynb": rf"Of 80 captions, reranking fixed \d+ \({NUMBER}%\) and broke \d+ .*",
    "token_budget.ipynb": rf"Take \d+ tokens: {NUMBER}% \[{NUMBER}, {NUMBER}\] text to image, .*",
    "decide.ipynb": rf"Take adapter\.num_tokens=\d+: {NUMBER}% with [\d,]+ bytes per image; .*",
    "what_tokens_see.ipynb": r"The 8 tokens read through 3 heads\..* \d+% of all weight falls .*",
}
FIGURES = {"tour_of_a_run.ipynb": 5, "token_budget.ipynb": 1}
FIGURES |= {"decide.ipynb": 2, "what_tokens_see.ipynb": 2}
pytestmark = pytest.mark.notebooks


def call(*command: str | Path, cwd: Path) -> None:
    """Away from the checkout, with its package; what Jupyter keeps of itself goes there too."""
    own = {name: str(cwd / "jupyter") for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
    own |= {"JUPYTER_RUNTIME_DIR": str(cwd / "jupyter" / "runtime")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def command(notebook: Path) -> str:
    """The one that its opening gives, of a sweep the first two values of each key."""
    (line,) = re.findall(r"^    python (run\.py.*)$", "".join(cells(notebook)[0]["source"]), re.M)
    line = line.replace("+sweep=tokens", "+sweep=tokens adapter.num_tokens=2,4")
    return re.sub(r"=(\w+),(\w+)[\w,]*", r"=\1,\2", line)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notebooks and, where they look for them, the runs of their commands."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    commands = {command(notebook) for notebook in (folder / "notebooks").glob("*.ipynb")}
    for line in sorted(commands):
        script, *overrides = shlex.split(line)
        call(sys.executable, ROOT / script, *overrides, *SHORT, cwd=folder)
    return folder


def test_every_notebook_is_executed_here() -> None:
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_it_runs_as_it_stands_and_shows_its_answer_and_its_figures(name: str, place: Path) -> None:
    notebook = place / "notebooks" / name
    execute = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
    call(sys.executable, "-c", execute, "--inplace", notebook, cwd=place)
    outputs = [cell["outputs"] for cell in cells(notebook) if cell["cell_type"] == "code"]
    every = [output for of_cell in outputs for output in of_cell]
    assert not [output for output in every if output.get("name") == "stderr"]
    printed = [out for out in outputs[-1] if out["output_type"] == "stream"]
    assert re.fullmatch(ANSWERS[name], "".join(printed[0]["text"]).strip())
    assert "nan" not in "".join(printed[0]["text"])
    pictures = [out["data"]["image/png"] for out in every if "image/png" in out.get("data", {})]
    assert len(pictures) == FIGURES[name]
    assert "image/png" in outputs[-1][-1]["data"]
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn

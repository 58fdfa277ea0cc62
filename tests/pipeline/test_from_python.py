"""The page of the documentation that trains from Python: it runs as it is, without Hydra."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/python.md"
SHORTER = {  # a small set and few steps, so that the test takes seconds
    "ShapesSource()": (
        "ShapesSource(train_images=56, val_images=8, test_images=16, unique_among=8, dev_images=8)"
    ),
    '"max_steps": 400': '"max_steps": 3, "accelerator": "cpu"',
    "warmup_steps=30": "warmup_steps=1",
}
BEFORE = """
import builtins

given = builtins.__import__


def guarded(name, globals=None, *others, **more):  # Lightning looks for them; we must not
    ours = (globals or {}).get("__name__", "").startswith("edje")
    assert not (ours and name.split(".")[0] in ("hydra", "omegaconf")), globals["__name__"]
    return given(name, globals, *others, **more)


builtins.__import__ = guarded
"""
AFTER = """
scoring = Scoring(candidates=10)
chosen = {"backbone": backbone, "cache": cache, "scoring": scoring, "folder": folder / "test"}
again = edje.evaluate(folder, source, **chosen)  # of the same configuration: written again
assert again["t2i"] == found["t2i"] and found["num_images"] == 16
assert {"dataset", "split", "score", "label", "dtype", "num_candidates"} <= found.keys()
both = edje.evaluate(
    folder, source, backbone=backbone, cache=cache, scoring=scoring, score="sum"
)
assert both["score"] == "sum" and not checkpoint.fusion
built = edje.Reranker.from_pretrained(folder, backbone=backbone)
assert edje.evaluate(built, source, cache=cache, scoring=scoring)["t2i"] == found["t2i"]
assert built.picture_encoder.backbone is backbone

analysis = edje.analysis
(row,) = analysis.load_runs("runs").to_dict("records")
assert (row["run"], row["status"], row["message"]) == ("from_python/test", "done", "")
assert row["adapter.num_tokens"] == 8 and row["scoring.candidates"] == 10
saved = edje.Reranker.from_pretrained("my_reranker")
assert saved.rank("a red circle", pictures, top_k=3) == best
"""


@pytest.mark.docs
def test_the_page_runs_without_hydra(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for given, shorter in SHORTER.items():
        assert code.count(given) == 1
        code = code.replace(given, shorter)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code + AFTER],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    recall = yaml.safe_load(done.stdout.strip().splitlines()[-1])
    assert recall["low"] <= recall["value"] <= recall["high"]
    assert (tmp_path / "runs" / "from_python" / "checkpoints" / "model.ckpt").is_file()

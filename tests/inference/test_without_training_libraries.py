"""Loading and scoring work where neither lightning nor hydra nor omegaconf can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
MADE = ROOT / "tests" / "formats" / "0.1.0"

SCRIPT = """
import json
import sys
from pathlib import Path

blocked = ["lightning", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf"]
sys.modules |= dict.fromkeys(blocked)

import torch
from safetensors.torch import save_file

import edje
from edje.captions import clean_caption

made, out = map(Path, sys.argv[1:])
store = edje.TokenStore.open(made / "stores" / "bf16")
backbone = edje.load_backbone("siglip_b16", pretrained=str(made / "tower"))
captions = json.loads((made / "captions.json").read_text())
pairs = torch.arange(len(store)).repeat(len(captions))
texts = [caption for caption in captions for _ in range(len(store))]
words = backbone.project_texts(backbone.encode_texts([clean_caption(text) for text in captions]))
cosines = (words @ backbone.project_images(store.features()).T).flatten()
found = {}
for kind in ("joint", "residual", "nested", "local"):
    path = made / "checkpoints" / f"{kind}.ckpt"
    reranker = edje.Reranker.from_pretrained(path, precision="fp32")
    visual = reranker.compress(store.read(torch.arange(len(store))))
    scores = reranker.score(texts, visual[pairs], cosines)
    found[f"scores.{kind}"] = scores.view(len(captions), len(store))
save_file(found, out)
"""


def test_a_checkpoint_a_backbone_and_a_store_open_and_give_their_scores(tmp_path: Path) -> None:
    """In a fresh interpreter: the scores that version 0.1.0 gave with everything installed."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "score.py", MADE, tmp_path / "scores.safetensors"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = load_file(MADE / "expected.safetensors")
    found = load_file(tmp_path / "scores.safetensors")
    assert len(found) == 4
    for name, scores in found.items():
        torch.testing.assert_close(scores, expected[name], atol=1e-5, rtol=1e-5)

"""Write what the present version writes, for tests to open for good.

    PYTHONPATH=. python tests/formats/write.py <empty folder to work in>

Makes tests/formats/<version>/, which isn't there yet: a raw store of each codec and a table of
caption features over eight drawn scenes, a checkpoint of each kind, a run folder with score=sum,
and the scores that all of these give. Never written anew: a change after which these files no
longer open, or score otherwise, breaks what people have on their disks.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import edje
from edje.tokens.store import TokenStore
from tests.formats.opened import CODECS, KINDS, decoded, scores
from tests.tiny.towers import make_siglip

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMON = [
    "experiment=shapes",
    "backbone=siglip_b16",
    "backbone.pretrained=tower",
    "objective=[matching,masked_language]",
    "teacher=null",
    "start=fresh",
    "adapter.hidden_width=16",
    "joint.tokenizer=words",
    "joint.width=16",
    "joint.num_layers=2",
    "joint.num_heads=2",
    "joint.hidden_width=16",
    "joint.fusion_layer=1",
    "joint.max_positions=40",
    "loader=default",
    "loader.batch_size=8",
    "negatives.easy_steps=0",
    "data.train_images=40",
    "data.val_images=8",
    "data.test_images=8",
    "data.unique_among=8",
    "data.dev_images=8",
    "trainer.max_steps=40",
    "optim.lr=0.01",
    "optim.warmup_steps=5",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "scoring.candidates=5",
    "scoring.precision=fp32",
    "scoring.examples=0",
    "cache_dir=cache",
]
OPTIONS = {
    "joint": ["adapter.num_tokens=4", "score=joint"],
    "residual": ["adapter.num_tokens=4", "score=residual"],
    "nested": ["adapter=compression_nested", "adapter.num_tokens=4", "adapter.budgets=[2,4]"],
    "local": ["adapter=local"],
    "run": ["adapter.num_tokens=4", "score=sum"],
}


def call(*overrides: str) -> None:
    """Run a command of this checkout, here."""
    command = [sys.executable, "-m", "edje.cli", *COMMON, *overrides]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def main(work: Path) -> None:
    """Write the folder of this version."""
    target = HERE / edje.__version__
    if target.exists():
        sys.exit(f"{target} is there: what a version has written stays as it is.")
    os.chdir(work)
    make_siglip(Path("tower"), width=16)
    Path("words").mkdir()
    for file in (ROOT / "edje/assets/shapes/backbone").glob("tokenizer*"):
        shutil.copy(file, "words")
    for part in ("tower", "words"):
        shutil.copytree(part, target / part)
    for codec in CODECS:
        before = set(Path("cache/shapes-test").glob("raw-*"))
        call("task=cache", f"storage.raw_codec={codec}", f"hydra.run.dir=cached_{codec}")
        (made,) = set(Path("cache/shapes-test").glob("raw-*")) - before
        shutil.copytree(made, target / "stores" / codec)
    (table,) = Path("cache/shapes-test").glob("text-*")
    shutil.copytree(table, target / "captions")
    for kind, options in OPTIONS.items():
        call(*options, f"hydra.run.dir={kind}")
        if kind != "run":
            (target / "checkpoints").mkdir(exist_ok=True)
            shutil.copyfile(
                f"{kind}/checkpoints/model.ckpt", target / "checkpoints" / f"{kind}.ckpt"
            )
    shutil.copytree(
        "run", target / "run", ignore=shutil.ignore_patterns("plots", "environment.json")
    )
    annotations = next(Path("cache").glob("shapes-*/dataset_shapes.json"))
    sentences = {
        f"{image['filename']}": [sentence["raw"] for sentence in image["sentences"]]
        for image in json.loads(annotations.read_text())["images"]
        if image["split"] == "test"
    }
    ids = TokenStore.open(target / "stores" / CODECS[0]).image_ids
    captions = [sentences[image_id][0] for image_id in ids]
    (target / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")
    expected = {f"tokens.{codec}": decoded(target, codec) for codec in CODECS}
    expected |= {f"scores.{kind}": scores(target, kind) for kind in KINDS}
    save_file(
        {key: tensor.contiguous() for key, tensor in expected.items()},
        target / "expected.safetensors",
    )
    assert all(torch.isfinite(tensor).all() for tensor in expected.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

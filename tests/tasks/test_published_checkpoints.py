"""Claims about checkpoints of the published format as the command line takes them."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from transformers import SiglipImageProcessor

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.cli import run
from edje.config.of_published import config_of_published
from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.inference.reference import load_reference_checkpoint
from edje.inference.run_choices import facts_of
from edje.pipeline.trained import check_named, load_trained, trained_file
from edje.tasks.wiring import backbone_builder, published_of
from edje.tokens.codec import make_codec
from edje.tokens.store import TokenStore
from tests.inference.straight_line import write_fixture
from tests.tiny.hub_cache import put_into_cache
from tests.tiny.shared import PARITY
from tests.tiny.towers import make_siglip, save_siglip
from tests.tiny.world import with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
HUB_NAME = "shahafw/edje-vl-image-retrieval-reranker"
KINDS = ("local", "compressed")


def flickr30k(root: Path, texts: list[str], side: int) -> None:
    """Six drawn pictures of each split, two captions each, as Karpathy lists them."""
    (root / "images").mkdir(parents=True)
    draws = np.random.default_rng(0)
    listed = []
    for number in range(18):
        pixels = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        first, second, third = (texts[(number + step) % len(texts)] for step in range(3))
        said = [f"{number % 3 * 'a '}{first}", f"{second} {third}"]
        split = ("train", "val", "test")[number // 6]
        sentences = [{"raw": text} for text in said]
        listed.append({"filename": f"{number}.png", "split": split, "sentences": sentences})
    (root / "dataset_flickr30k.json").write_text(json.dumps({"images": listed}))


def make(root: Path, fixture: Path, side: int) -> Path:
    """A fixture's weights with an image processor for its tower, and pictures for it."""
    for name in ("language_model", "vision_tower"):
        shutil.copytree(fixture / name, root / name, copy_function=shutil.copyfile)
        (root / name).chmod(0o755)
    for kind in KINDS:
        (root / f"{kind}.pth").symlink_to(fixture / f"{kind}_checkpoint.pth")
    square = {"height": side, "width": side}
    SiglipImageProcessor(size=square).save_pretrained(root / "vision_tower")
    flickr30k(root / "data", json.loads((fixture / "captions.json").read_text()), side)
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fixture = write_fixture(tmp_path_factory.mktemp("fixture"))
    return make(tmp_path_factory.mktemp("own"), fixture, 16)


@pytest.fixture(scope="module")
def root(request, own, tmp_path_factory) -> Path:
    """The project's own fixture, and the one recorded with the reference where it is present."""
    if request.param == "own":
        return own
    if not PARITY.is_dir():
        pytest.skip("no recorded fixture beside the project")
    return make(tmp_path_factory.mktemp("recorded"), PARITY, 32)


@pytest.fixture(scope="module")
def done(own, tmp_path_factory) -> Path:
    """The run folder of the project's own compressed checkpoint, evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "evaluated"
    evaluated(own, own / "compressed.pth", folder)
    return folder


@pytest.fixture(scope="module")
def lists(done) -> pd.DataFrame:
    """Its scored candidates."""
    return pd.read_parquet(done / "candidates.parquet")


def command(root: Path, checkpoint: object, folder: Path, *changes: str) -> list[str]:
    """The README's command, for a tiny tower and few pictures, in float32."""
    return with_changes(
        [
            "task=evaluate",
            f"checkpoint={checkpoint}",
            "backbone=siglip2_l16_384",
            "data=flickr30k",
            f"data.root={root / 'data'}",
            "data.split_sizes=null",
            "data.caption_counts=null",
            f"backbone.pretrained={root / 'vision_tower'}",
            f"joint.pretrained={root / 'language_model'}",
            "scoring.precision=fp32",
            "scoring.candidates=4",
            "scoring.examples=0",
            "trainer.accelerator=cpu",
            f"cache_dir={root / 'cache'}",
            f"hydra.run.dir={folder}",
        ],
        *changes,
    )


def evaluated(root: Path, checkpoint: object, folder: Path, *changes: str) -> pd.DataFrame:
    run(command(root, checkpoint, folder, *changes))
    return pd.read_parquet(folder / "candidates.parquet")


def expected_logits(root: Path, kind: str, lists: pd.DataFrame, queries: pd.DataFrame) -> Tensor:
    """The reference's logit of every listed pair, on the tokens of the store after the codec."""
    reranker = load_reference_checkpoint(
        root / f"{kind}.pth",
        language_model=root / "language_model",
        vision_tower=root / "vision_tower",
    )
    store = TokenStore.open(next((root / "cache" / "flickr30k-test").glob("raw-*")))
    visual = reranker.compress(store.read(torch.arange(len(store))))
    codec = make_codec("bf16", *visual.shape[1:])
    cells = torch.from_numpy(codec.encode(visual))
    visual = codec.decode(cells, dtype=torch.float32, device="cpu")
    texts = queries[queries["direction"] == "t2i"].set_index("query_id")["text"]
    text_first = lists["direction"] == "t2i"
    captions = lists["query_id"].where(text_first, lists["candidate_id"]).map(texts)
    images = lists["candidate_id"].where(text_first, lists["query_id"])
    return reranker.score(list(captions), visual[store.rows_of(list(images))])


@pytest.mark.parametrize(
    ("root", "kind", "way"),
    [  # of the project's own, tests below read compressed.pth by its path
        *(("own", kind, "hub") for kind in KINDS),
        *(("recorded", kind, way) for kind in KINDS for way in ("file", "hub")),
    ],
    indirect=["root"],
)
def test_every_logit_is_the_references(root, kind, way, hub, tmp_path) -> None:
    name = root / f"{kind}.pth"
    label = name.name
    if way == "hub":
        put_into_cache(hub, HUB_NAME, {"epoch_2.pth": name})
        name = label = HUB_NAME
    lists = evaluated(root, name, tmp_path / "run")
    queries = pd.read_parquet(tmp_path / "run" / "queries.parquet")
    assert len(lists) == 12 * 4 + 6 * 4 and lists["joint"].nunique() > 12
    expected = expected_logits(root, kind, lists, queries)
    found = torch.tensor(lists["joint"].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["label"] == f"unknown sets (published checkpoint {label})"
    sizes = {"local": (16, 48), "compressed": (4, 48)}
    if root.name.startswith("own"):
        sizes = {"local": (4, 24), "compressed": (2, 24)}
    assert metrics["storage_bytes_per_image"] == sizes[kind][0] * sizes[kind][1] * 2
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["checkpoint"] == str(name) and config["name"] == "published"
    adapter = "LocalAdapter" if kind == "local" else "TokenCompressionAdapter"
    assert config["adapter"]["_target_"] == f"edje.models.adapters.{adapter}"


def composed(root: Path, **values: object) -> OmegaConf:
    backbone = {
        "_target_": "edje.backbones.huggingface.HuggingFaceBackbone",
        "pretrained": str(root / "vision_tower"),
    }
    joint = {"pretrained": str(root / "language_model")}
    return OmegaConf.create({"name": "x", "backbone": backbone, "joint": joint, **values})


def loaded(cfg, key: str, backbone=None):
    """What a run of this configuration gets of a reranker that it names."""
    built = backbone_builder(cfg) if backbone is None else lambda: backbone
    return load_trained(cfg[key], key, built, published_of(cfg))


def test_saved_once_bound_it_is_a_checkpoint_of_ours(own, done, lists, tmp_path) -> None:
    checkpoint = loaded(OmegaConf.load(done / "config.yaml"), "checkpoint")
    backbone = HuggingFaceBackbone(pretrained=str(own / "vision_tower"))
    assert checkpoint.backbone == backbone.identity()
    path = tmp_path / "model.ckpt"
    save_checkpoint(checkpoint, path)
    with pytest.raises(EdjeError, match=r"backbone=…: the checkpoint .* was trained with its own"):
        evaluated(own, path, tmp_path / "a")
    run(["task=evaluate", f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'b'}"])
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "b" / "candidates.parquet"), lists)


def test_saved_with_the_name_of_its_tower_alone_it_is_bound_when_it_is_read(
    own, lists, tmp_path
) -> None:
    reranker = load_reference_checkpoint(
        own / "compressed.pth",
        language_model=own / "language_model",
        vision_tower=own / "vision_tower",
    )
    path = tmp_path / "named.ckpt"
    save_checkpoint(reranker.checkpoint, path)
    assert load_checkpoint(path).backbone.keys() == {"backbone"}
    pd.testing.assert_frame_equal(evaluated(own, path, tmp_path / "b"), lists)
    other = HuggingFaceBackbone(pretrained=str(save_siglip(tmp_path / "other", image_size=32)))
    with pytest.raises(EdjeError, match=r"num_tokens is 4 in it, 16 in the backbone"):
        loaded(composed(own, miner=str(path)), "miner", other)


def test_what_could_be_compared_and_what_not_is_logged(own, tmp_path, caplog) -> None:
    backbone = HuggingFaceBackbone(pretrained=str(own / "vision_tower"))
    cfg = composed(own, teacher=str(own / "local.pth"))
    with caplog.at_level(logging.INFO, "edje"):
        loaded(cfg, "teacher", backbone)
    compared = [t for t in backbone.model.state_dict().values() if t.numel() > 1]
    floating = sum(tensor.is_floating_point() for tensor in compared)
    assert f", {floating} tensors of the towers are the same; " in caplog.messages[-1]
    cfg.teacher = str(changed(own, "local", tmp_path, without_towers))
    with caplog.at_level(logging.INFO, "edje"):
        loaded(cfg, "teacher", backbone)
    assert "the widths fit; the file doesn't say with which layer" in caplog.messages[-1]


def changed(own: Path, kind: str, tmp_path: Path, change) -> Path:
    content = torch.load(own / f"{kind}.pth", weights_only=True)
    change(content["model"])
    torch.save(content, tmp_path / f"{kind}.pth")
    return tmp_path / f"{kind}.pth"


def without_towers(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.startswith(("clip.", "vision_encoder."))]:
        del state[name]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_another_backbone_is_refused_before_anything_is_computed(own, tmp_path, stored) -> None:
    """Also where the file is in 16 bits, whose rounding of the right one's weights is let pass."""

    def in_16_bits(state: dict[str, Tensor]) -> None:
        state |= {name: tensor.to(stored) for name, tensor in state.items()}

    path = changed(own, "compressed", tmp_path, in_16_bits)
    cfg = composed(own, checkpoint=str(path))
    assert loaded(cfg, "checkpoint").backbone["num_tokens"] == 4
    others = {
        "width": (make_siglip(tmp_path / "width", width=24), "width 32, the backbone's have 24"),
        "tokens": (save_siglip(tmp_path / "tokens", 0, 32), r"position_embedding\.weight is \(4"),
        "weights": (save_siglip(tmp_path / "weights", 1), "has other values in it"),
    }
    for other, message in others.values():
        backbone = HuggingFaceBackbone(pretrained=str(other))
        with pytest.raises(EdjeError, match=rf"another backbone's tokens.*{message}"):
            loaded(cfg, "checkpoint", backbone)
    changes = [f"backbone.pretrained={other}", f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(EdjeError, match="another backbone's tokens"):
        evaluated(own, path, tmp_path / "a", *changes)
    assert not (tmp_path / "cache").exists()


def test_without_its_towers_the_shapes_still_tell_a_wrong_backbone(own, tmp_path) -> None:
    path = changed(own, "local", tmp_path, without_towers)
    cfg = composed(own, teacher=str(path))
    narrow = make_siglip(tmp_path / "narrow", width=24)
    with pytest.raises(EdjeError, match=r"tokens of width 32, the backbone's have 24"):
        loaded(cfg, "teacher", HuggingFaceBackbone(pretrained=str(narrow)))
    many = save_siglip(tmp_path / "many", image_size=32)
    with pytest.raises(EdjeError, match=r"68 positions were made for 4 vision .*gives 16"):
        loaded(cfg, "teacher", HuggingFaceBackbone(pretrained=str(many)))


def test_a_fitted_first_stage_is_refused(own) -> None:
    class Fitted(HuggingFaceBackbone):
        def recipe(self):
            return {}

        def fit(self, *arguments, seed):
            return {}

        def first_stage_state(self):
            return {}

        def load_first_stage_state(self, state):
            pass

    cfg = composed(own, checkpoint=str(own / "local.pth"))
    with pytest.raises(EdjeError, match=r"has no first stage, but backbone=Fitted"):
        loaded(cfg, "checkpoint", Fitted(pretrained=str(own / "vision_tower")))


def test_it_compresses_and_is_evaluated_from_the_compressed_store(own, lists, tmp_path) -> None:
    run(command(own, own / "compressed.pth", tmp_path / "b", "task=compress"))
    store = Path(json.loads((tmp_path / "b" / "compress.json").read_text())["store"])
    assert (TokenStore.open(store).num_tokens, TokenStore.open(store).width) == (2, 24)
    try:
        found = evaluated(own, own / "compressed.pth", tmp_path / "c", f"store={store}")
    finally:
        shutil.rmtree(store)
    pd.testing.assert_frame_equal(found, lists, rtol=0, atol=1e-5)


def test_another_process_reads_the_same_adapter(own) -> None:
    backbone = HuggingFaceBackbone(pretrained=str(own / "vision_tower"))
    cfg = composed(own, checkpoint=str(own / "compressed.pth"))
    here = loaded(cfg, "checkpoint", backbone).model.state_dict()
    again = pickle.loads(
        pickle.dumps(
            trained_file(cfg.checkpoint, "checkpoint", facts_of(backbone), published_of(cfg))
        )
    )()
    assert all(torch.equal(tensor, here[name]) for name, tensor in again.model.state_dict().items())


def training(own: Path, folder: Path, *changes: str) -> list[str]:
    return with_changes(
        command(own, "null", folder),
        "task=train",
        "experiment=published",
        "adapter.num_tokens=2",
        "adapter.hidden_width=20",
        "data.dev_images=0",
        "loader.batch_size=4",
        "loader.num_workers=0",
        "negatives.count=1",
        "negatives.pool=2",
        "trainer.max_steps=1",
        "trainer.enable_progress_bar=false",
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=1",
        "optim.lr=1.0e-12",
        "optim.initial_lr=0",
        "optim.final_lr=0",
        *changes,
    )


def test_it_teaches_starts_and_mines_a_run(own, tmp_path) -> None:
    run(
        training(
            own,
            tmp_path / "run",
            "objective=[matching,distillation]",
            f"teacher={own / 'local.pth'}",
            "start=checkpoint",
            f"start.path={own / 'compressed.pth'}",
            f"miner={own / 'compressed.pth'}",
            "loader=neighbours",
            "loader.neighbours=1",
            "loader.mined_pool=2",
        )
    )
    logged = pd.read_csv(tmp_path / "run" / "logs" / "part_0" / "metrics.csv")
    assert logged["train/distillation"].notna().any()
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "model.ckpt")
    published = loaded(composed(own, teacher=str(own / "compressed.pth")), "teacher").model
    for name, tensor in published.state_dict().items():
        if not name.startswith("first_stage"):  # one step of at most 1e-6, where warm-up begins
            torch.testing.assert_close(trained.model.state_dict()[name], tensor, atol=3e-6, rtol=0)


def test_a_run_with_another_backbone_refuses_it_before_anything_is_computed(own, tmp_path) -> None:
    other = save_siglip(tmp_path / "other", seed=1)
    backbone = HuggingFaceBackbone(pretrained=str(other))
    for key in ("teacher", "start.path", "miner"):
        named = {"nothing": None, key: str(own / "local.pth")}
        with pytest.raises(EdjeError, match=rf"{key}=.*local\.pth: it was trained on another"):
            check_named(named, backbone)
        check_named(named, HuggingFaceBackbone(pretrained=str(own / "vision_tower")))
    changes = [
        "start=checkpoint",
        f"start.path={own / 'local.pth'}",
        f"backbone.pretrained={other}",
    ]
    with pytest.raises(EdjeError, match="it was trained on another backbone"):
        run(training(own, tmp_path / "run", *changes, f"cache_dir={tmp_path / 'cache'}"))
    assert not (tmp_path / "cache").exists()


def test_what_it_has_not_got_cannot_be_asked_of_it(own, tmp_path) -> None:
    cfg = composed(own, checkpoint=str(own / "compressed.pth"))
    for override in ("adapter=local", "adapter.num_tokens=8"):
        with pytest.raises(EdjeError, match=rf"{override}: the checkpoint .*'num_tokens': 2"):
            config_of_published(cfg, ["data=coco", override])
    cfg.joint.num_layers = 1
    with pytest.raises(EdjeError, match=r"joint\.num_layers=1: .*has all layers of its language"):
        config_of_published(cfg, [])
    cfg.joint = {"pretrained": "nowhere"}
    with pytest.raises(EdjeError, match="language_model=nowhere: no configuration and tokenizer"):
        loaded(cfg, "checkpoint")
    cfg.joint = {"tokenizer": "nowhere"}
    with pytest.raises(EdjeError, match="holds no tokenizer, and joint has no pretrained"):
        loaded(cfg, "checkpoint")
    with pytest.raises(EdjeError, match="adapter=local: the checkpoint"):
        evaluated(own, own / "compressed.pth", tmp_path / "a", "adapter=local")


def test_what_the_hub_refuses_is_one_message(own, tmp_path, hub) -> None:
    misspelt = "shahafw/edje-vl-image-retreival-reranker"
    with pytest.raises(EdjeError, match=rf"checkpoint={misspelt}: no such file or folder exists"):
        evaluated(own, misspelt, tmp_path / "a")
    with pytest.raises(EdjeError, match="no such file or folder exists"):
        run(training(own, tmp_path / "b", "start=checkpoint", f"start.path={misspelt}"))

"""Encoding on a GPU: a vision tower of SigLIP2 L/16's size, alone and as the cache runs it."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from gpu_figures import Lane, Work, in_turns, of_a_run
from gpu_profile import Measured, profile_of
from PIL import Image
from torch import Tensor
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.benchmark.flops import count_flops
from edje.benchmark.peers import made_up_words
from edje.data.datamodules.shard_datamodule import PixelRows
from edje.pipeline.collection import Tower
from edje.pipeline.storage import Storage
from edje.pipeline.writing import fill_store
from edje.retrieval.exact import products_in
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint


@dataclass(frozen=True)
class EncodingSizes:
    """Sizes of the vision tower, images per call, and files for the whole pipeline."""

    width: int = 1024
    layers: int = 24
    side: int = 384
    patch: int = 16
    batch: int = 64
    images: int = 1536
    files: int = 64  # with different content, 640 × 480
    seconds: float = 15.0
    min_runs: int = 5


def encoding_figures(device: torch.device, tiny: bool) -> Measured:
    """Images per second of the vision tower and of filling a store."""
    sizes = EncodingSizes(32, 2, 16, 8, 2, 8, 2, 0.2, 2) if tiny else EncodingSizes()
    with tempfile.TemporaryDirectory() as name:
        backbone = _backbone(sizes, Path(name) / "tower").to(device)
        pixels = torch.randn(sizes.batch, 3, sizes.side, sizes.side, device=device)
        flops = count_flops(lambda: backbone.encode_images(pixels[:1]))
        work = [Work(float(flops * sizes.batch))]
        half = HuggingFaceBackbone(pretrained=str(Path(name) / "tower")).to(device)
        peer = half.model.vision_model.to(torch.bfloat16)
        beside = "transformers' vision tower"

        @torch.no_grad()
        def lean() -> Tensor:
            return peer(pixel_values=pixels.to(torch.bfloat16)).last_hidden_state

        @torch.no_grad()
        def under_autocast() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                return backbone.encode_images(pixels).tokens

        def plain() -> Tensor:
            return backbone.encode_images(pixels).tokens

        calls = {"vision tower": plain, "vision tower under autocast": under_autocast}
        dtypes = (torch.float32, torch.bfloat16)
        lanes = {
            key: Lane(call, sizes.batch, "images/s", work, dtype, beside=beside)
            for (key, call), dtype in zip(calls.items(), dtypes, strict=True)
        }
        lanes[beside] = Lane(lean, sizes.batch, "images/s", work, torch.bfloat16)
        figures, _ = in_turns(lanes, device, sizes.seconds, sizes.min_runs)
        profiles = [profile_of(key, call, device) for key, call in calls.items()]
        in_tf32 = Lane(plain, sizes.batch, "images/s", work, torch.float32)
        with products_in("tf32", device):  # as a store is filled
            found, ceilings = in_turns(
                {"vision tower in TF32": in_tf32}, device, sizes.seconds / 3, sizes.min_runs
            )
        whole = Lane(
            plain, sizes.images, "images/s", [Work(float(flops * sizes.images))], torch.float32
        )
        seconds = _filled(sizes, backbone, Path(name), device)
        key = "image files into a store, with the start of the loaders"
        return Measured([*figures, *found, of_a_run(key, whole, [seconds], ceilings)], profiles)


def _backbone(sizes: EncodingSizes, folder: Path) -> HuggingFaceBackbone:
    """A backbone with random weights and a small text tower."""
    text = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "projection_size": sizes.width,
    }
    vision = {
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": max(sizes.width // 64, 1),
        "image_size": sizes.side,
        "patch_size": sizes.patch,
    }
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    square = {"height": sizes.side, "width": sizes.side}
    SiglipImageProcessor(size=square).save_pretrained(folder)
    made_up_words(50, 64).save_pretrained(folder)
    return HuggingFaceBackbone(pretrained=str(folder))


def _filled(
    sizes: EncodingSizes, backbone: HuggingFaceBackbone, folder: Path, device: torch.device
) -> float:
    """Seconds of task=cache's loop over image files."""
    files = []
    for number in range(sizes.files):
        noise = torch.randint(256, (12, 16, 3), dtype=torch.uint8).numpy()
        files.append(str(folder / f"{number}.jpg"))
        Image.fromarray(noise).resize((640, 480)).save(files[-1])
    ids = [f"{row:06d}" for row in range(sizes.images)]
    paths = [files[row % sizes.files] for row in range(sizes.images)]
    work = SimpleNamespace(
        description="encoding",
        feature_width=backbone.feature_width,
        precision="tf32",
        image_ids=ids,
        encoder=lambda: Tower(backbone),
        dataset=lambda: PixelRows(paths, backbone.preprocess),
    )
    codec = make_codec("bf16", backbone.num_tokens, backbone.token_width)
    fingerprint = Fingerprint({"backbone": "random"})
    started = time.perf_counter()
    fill_store(
        folder / "store",
        fingerprint,
        codec,
        lambda: work,
        Storage(batch_size=sizes.batch),
        [device],
    )
    return time.perf_counter() - started

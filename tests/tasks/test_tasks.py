"""The whole road in a tiny world, through the command line's own entry."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from edje.analysis import candidate_curve, load_runs, recompute_metrics
from edje.cli import run
from edje.config.run_folder import figure_of
from edje.errors import EdjeError
from edje.inference.checkpoint import keep_first_tokens, load_checkpoint
from edje.inference.reranker import Reranker
from edje.pipeline import evaluation, fitted_sum, scoring
from edje.records import DIRECTIONS
from tests.tiny.towers import make_siglip
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    """A world whose stores are filled and whose `run` folder holds a finished run."""
    overrides = make_world(tmp_path_factory.mktemp("world"))
    run(with_changes(overrides, "scoring.examples=8"))
    return overrides


@pytest.fixture(scope="module")
def root(world) -> Path:
    return next(Path(o.split("=")[1]).parent for o in world if o.startswith("hydra.run.dir"))


def test_a_run_without_a_logger_trains_and_evaluates(world, tmp_path):
    run(with_changes(world, "logger=null", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}"))
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["run.log"]
    assert (tmp_path / "metrics.json").is_file()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["logger"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trainer.precision=bf16-true", "Use auto, 32-true"),
        ("trainer.max_epochs=2", "set trainer.max_steps"),
        ("trainer.devices=[2]", "Use trainer.accelerator=auto"),
        ("optim.lr=0", "expected more than 0"),
        ("optim.warmup_steps=-1", "expected at least 0"),
        ("logger=wandb", r"WeightsAndBiases.*pip install 'edje\[wandb\]'"),
    ],
)
def test_what_training_cannot_follow_is_found_before_data_is_read(
    world, tmp_path, monkeypatch, change, said
):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    changes = [change, f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}"]
    with pytest.raises(EdjeError, match=said):
        run(with_changes(world, *changes))
    assert not (tmp_path / "cache").exists()


def test_a_run_folder_holds_what_is_promised(root):
    folder = root / "run"
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "metrics.json",
        "candidates.parquet",
        "queries.parquet",
        "checkpoints",
        "logs",
        "plots",
    } <= names
    metrics = json.loads((folder / "metrics.json").read_text())
    for direction in ("t2i", "i2t"):
        for stage in ("first_stage", "reranked", "ceiling", "gain"):
            assert set(metrics[direction][stage]) == {"recall@1", "recall@5", "recall@10"}
            for estimate in metrics[direction][stage].values():
                assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert metrics["storage_bytes_per_image"] == 4 * 32 * 2
    assert (metrics["num_images"], metrics["num_captions"]) == (8, 16)
    assert metrics["num_candidates"] == {"t2i": 5, "i2t": 5}
    assert metrics["label"] == "folder train" and metrics["split"] == "val"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["adapter"]["num_tokens"] == 4
    assert "8 images, 16 captions" in (folder / "report.html").read_text()
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "losses.png",
        "recall.png",
        "gallery.png",
    }


def test_a_run_that_stops_early_is_evaluated_with_its_best_weights_and_stays_stopped(
    world, root, tmp_path, capsys
):
    """Of the few queries on dev no six scores can each be better than the one before."""
    folder = tmp_path / "run"
    early = ["scoring.dev_every=1", "scoring.patience=1", "trainer.max_steps=40"]
    run(with_changes(world, *early, f"hydra.run.dir={folder}"))
    on_dev = pd.read_csv(folder / "logs" / "part_0" / "metrics.csv")["dev/t2i_recall@1"]
    assert figure_of(folder) == pytest.approx(on_dev.max())
    last, model, best = (folder / "checkpoints" / f"{n}.ckpt" for n in ("last", "model", "best"))
    state = torch.load(last, weights_only=True)
    assert 2 <= state["global_step"] <= 6
    log = (folder / "logs" / "run.log").read_text()
    assert "stopped early, at step" in log and "tensorboardX" not in log
    assert torch.equal(*(next(iter(weights(path).values())) for path in (model, best)))
    metrics = json.loads((folder / "metrics.json").read_text())
    stamp = last.stat().st_mtime_ns
    (folder / "metrics.json").unlink()
    run([f"resume={folder}"])
    assert last.stat().st_mtime_ns == stamp
    assert json.loads((folder / "metrics.json").read_text())["t2i"] == metrics["t2i"]
    with pytest.raises(EdjeError, match=r"optim\.lr=.*Train on with another scoring\.patience"):
        run([f"resume={folder}", "optim.lr=0.001"])
    run([f"resume={folder}", "scoring.patience=2"])
    assert torch.load(last, weights_only=True)["global_step"] > state["global_step"]


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_finished_run_is_trained_on_with_more_steps_and_evaluated_again(world, root, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(root / "run", folder)
    run([f"resume={folder}", "scoring.candidates=4"])
    assert json.loads((folder / "metrics.json").read_text())["num_candidates"]["t2i"] == 4
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    before = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]
    run([f"resume={folder}", "trainer.max_steps=6"])
    assert torch.load(last, weights_only=True)["global_step"] == 6
    after = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]
    assert not all(torch.equal(before[name], after[name]) for name in before)
    configs = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("config*.yaml"))]
    steps = [config["trainer"]["max_steps"] for config in configs]
    assert sorted(steps) == [4, 4, 6]
    with pytest.raises(
        EdjeError, match=r"trainer\.max_steps=5: this run has already trained 6 steps"
    ):
        run([f"resume={folder}", "trainer.max_steps=5"])


def test_a_candidate_curve_is_what_evaluations_with_so_many_candidates_give(world, root, tmp_path):
    curve = candidate_curve(root / "run").set_index(["direction", "candidates"])
    for count in (2, 4):
        few = ["task=evaluate", f"checkpoint={root / 'run'}", f"scoring.candidates={count}"]
        run([*few, f"hydra.run.dir={tmp_path / str(count)}"])
        metrics = json.loads((tmp_path / str(count) / "metrics.json").read_text())
        for direction in DIRECTIONS:
            for stage in ("first_stage", "reranked", "ceiling", "gain"):
                expected = metrics[direction][stage]["recall@1"]
                row = curve.loc[(direction, count)]
                assert [row[stage], row[f"{stage}.low"], row[f"{stage}.high"]] == [
                    *expected.values()
                ]


def test_the_sweep_over_candidates_takes_a_trained_model(world, root, tmp_path):
    sweep = ["-m", "+sweep=candidates", "task=evaluate", f"checkpoint={root / 'run'}"]
    run([*sweep, "scoring.candidates=2,4", f"hydra.sweep.dir={tmp_path}"])
    assert list(load_runs(tmp_path)["num_candidates.t2i"]) == [2, 4]


def test_a_run_with_nested_budgets_is_evaluated_with_fewer_tokens(world, root):
    nested = with_changes(world, "adapter.budgets=[2,4]", "score=sum")
    run(with_changes(nested, f"hydra.run.dir={root / 'nested'}"))
    few = [
        "task=evaluate",
        "scoring.num_tokens=2",
        f"data.root={root / 'data'}",
        f"cache_dir={root / 'cache'}",
        f"hydra.run.dir={root / 'few'}",
    ]
    run([*few, f"checkpoint={root / 'nested'}"])
    sizes = [
        json.loads((root / name / "metrics.json").read_text())["storage_bytes_per_image"]
        for name in ("nested", "few")
    ]
    assert sizes == [4 * 32 * 2, 2 * 32 * 2]
    # score=sum: each budget has its own weight
    checkpoint = load_checkpoint(root / "nested")
    assert {count: set(sums) for count, sums in checkpoint.fusion.items()} == {
        2: set(DIRECTIONS),
        4: set(DIRECTIONS),
    }
    assert checkpoint.fusion[2]["t2i"].joint.std != checkpoint.fusion[4]["t2i"].joint.std
    assert keep_first_tokens(checkpoint, 2).fusion == {2: checkpoint.fusion[2]}
    with pytest.raises(EdjeError, match=r"num_tokens=3: .* trained for the first 2, 4\. Give"):
        run(
            with_changes(
                few,
                "score=sum",
                "scoring.num_tokens=3",
                f"checkpoint={root / 'nested'}",
                f"hydra.run.dir={root / 'three'}",
            )
        )


def test_checkpoints_hold_the_reranker_and_nothing_of_the_frozen_towers(root):
    parts = {"adapter", "joint", "match", "masked_language", "text_recovery"}
    buffers = {"first_stage_mean", "first_stage_deviation"}
    for name in ("last.ckpt", "model.ckpt"):
        content = torch.load(root / "run" / "checkpoints" / name, weights_only=True)
        assert {key.split(".")[1] for key in content["state_dict"]} == parts | buffers
        if name == "last.ckpt":
            averages = content["optimizer_states"][0]["state"].values()
            optimised = Counter(tuple(state["exp_avg"].shape) for state in averages)
            saved = Counter(tuple(tensor.shape) for tensor in content["state_dict"].values())
            assert optimised and optimised <= saved


def test_the_parquet_files_give_the_metrics_back(root):
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    again = recompute_metrics(root / "run")
    assert again["t2i"] == metrics["t2i"] and again["i2t"] == metrics["i2t"]


def test_the_reranker_from_a_run_folder_gives_the_runs_scores(root):
    """Through files alone: raw tokens of the store, compressed and scored by the Reranker."""
    from edje.tokens.store import TokenStore

    reranker = Reranker.from_pretrained(root / "run")
    folder = next((root / "cache" / "folder-val").glob("raw-*"))
    store = TokenStore.open(folder)
    table = pd.read_parquet(root / "run" / "candidates.parquet")
    table = table[table.direction == "t2i"].head(20)
    texts = pd.read_parquet(root / "run" / "queries.parquet").set_index("query_id").text
    visual = reranker.compress(store.read(store.rows_of(table.candidate_id.tolist())))
    scores = reranker.score([texts[query] for query in table.query_id], visual)
    torch.testing.assert_close(
        scores, torch.tensor(table.joint.to_numpy(dtype="float32")), rtol=0.05, atol=0.02
    )


def test_the_tasks_work_on_their_own_and_evaluating_needs_no_training_data(tmp_path):
    overrides = make_world(tmp_path)
    run(with_changes(overrides, "task=cache", f"hydra.run.dir={tmp_path / 'cached'}"))
    report = json.loads((tmp_path / "cached" / "first_stage.json").read_text())
    assert report["split"] == "dev" and 0 <= report["recall"]["t2i"]["recall@1"] <= 100
    run(with_changes(overrides, "task=train", "score=sum", f"hydra.run.dir={tmp_path / 'trained'}"))
    assert not (tmp_path / "trained" / "metrics.json").exists()

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", elsewhere)
    table = pd.read_csv(elsewhere / "captions.csv")
    for image in table[table.split == "train"].image.unique():
        (elsewhere / "images" / image).unlink()
    table[table.split == "val"].to_csv(elsewhere / "captions.csv", index=False)
    shutil.rmtree(tmp_path / "cache")
    run(
        [
            "task=evaluate",
            f"checkpoint={tmp_path / 'trained'}",
            f"data.root={elsewhere}",
            "data.split=val",
            f"cache_dir={tmp_path / 'cache2'}",
            f"hydra.run.dir={tmp_path / 'evaluated'}",
        ]
    )
    metrics = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert metrics["num_images"] == 8
    assert not (tmp_path / "cache2" / "folder-train").exists()

    lone = tmp_path / "lone.ckpt"
    shutil.copyfile(tmp_path / "trained" / "checkpoints" / "model.ckpt", lone)
    run(
        [
            "task=evaluate",
            f"checkpoint={lone}",
            "score=sum",
            f"data.root={elsewhere}",
            f"cache_dir={tmp_path / 'cache2'}",
            f"hydra.run.dir={tmp_path / 'summed'}",
        ]
    )
    assert json.loads((tmp_path / "summed" / "metrics.json").read_text())["score"] == "sum"


def test_a_run_of_another_score_gets_the_weights_of_a_sum_where_its_cache_is(
    world, root, tmp_path, monkeypatch
):
    """The same ones that training with score=sum ends with."""
    asked = []

    def watched(*arguments, devices=(), **more):
        asked.append(tuple(devices))
        return scoring.rerank_collection(*arguments, devices=devices, **more)

    for module in (fitted_sum, evaluation):
        monkeypatch.setattr(module, "rerank_collection", watched)
    run(with_changes(world, "score=sum", f"hydra.run.dir={tmp_path / 'sum'}"))
    assert asked == [(torch.device("cpu"),)] * 2
    weights = load_checkpoint(tmp_path / "sum").fusion
    assert set(weights) == {4} and set(weights[4]) == set(DIRECTIONS)
    assert not load_checkpoint(root / "run").fusion
    later = ["task=evaluate", f"checkpoint={root / 'run'}", "score=sum"]
    run([*later, f"hydra.run.dir={tmp_path / 'later'}"])
    assert "fitting its weights now" in (tmp_path / "later" / "logs" / "run.log").read_text()
    lists = [pd.read_parquet(tmp_path / name / "candidates.parquet") for name in ("sum", "later")]
    pd.testing.assert_frame_equal(*lists)
    for changes, why in (
        ([f"cache_dir={tmp_path / 'cache'}"], "held-back images aren't in .*folder-train/raw-"),
        (["data.dev_images=3"], "data, dev_images or dev_seed isn't its run's"),
        (["data.name=other"], "data, dev_images or dev_seed isn't its run's"),
    ):
        with pytest.raises(EdjeError, match=rf"score=sum: .* fitted with 4 tokens, and .*{why}"):
            run([*later, *changes, f"hydra.run.dir={tmp_path / changes[0][:8]}"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.clusters
def test_two_processes_evaluate_to_the_lists_and_metrics_of_one(world, root, tmp_path, monkeypatch):
    monkeypatch.setattr("edje.pipeline.scoring.WORTH_SHARING", 0)
    monkeypatch.setattr("edje.pipeline.scoring.score", None)  # no road but the shared one
    given = [f"data.root={root / 'data'}", f"cache_dir={root / 'cache'}", "trainer.accelerator=cpu"]
    shared = tmp_path / "shared"
    run(
        [
            *("task=evaluate", f"checkpoint={root / 'run'}", *given),
            *("trainer.devices=2", f"hydra.run.dir={shared}"),
        ]
    )
    for name in ("candidates", "queries"):
        whole = pd.read_parquet(root / "run" / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(shared / f"{name}.parquet"), whole)
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (root / "run", shared)]
    assert all(figures.pop("scored_pairs_per_second") > 0 for figures in metrics)
    assert metrics[0] == metrics[1]


@pytest.mark.sweeps
def test_a_sweep_gives_a_folder_per_job_and_one_table(world, root, capsys):
    sweep = [
        "-m",
        *with_changes(world, "seed=0,1", "adapter.num_tokens=2,4", "trainer.max_steps=1"),
    ]
    capsys.readouterr()
    run(sweep)
    table = load_runs(root / "sweep")
    assert len(table) == 4 and set(table["status"]) == {"done"}
    pairs = zip(table["adapter.num_tokens"], table["seed"], strict=True)
    assert set(pairs) == {(2, 0), (2, 1), (4, 0), (4, 1)}
    assert table["t2i.reranked.recall@1"].notna().all()
    kept = pd.read_csv(root / "sweep" / "sweep.csv", dtype={"run": str})
    assert list(kept["run"]) == list(table["run"]) and list(kept) == list(table)
    assert (root / "sweep" / "sweep.png").stat().st_size > 0
    said = capsys.readouterr().out
    assert "too high to report" not in said  # chosen on val
    summed_up = last_table(said)
    assert summed_up[0].split()[:3] == ["job", "num_tokens", "seed"]
    assert [line.split()[0] for line in summed_up[1:5]] == ["0", "1", "2", "3"]
    assert [line.split()[:4] for line in summed_up[6:8]] == [
        ["mean", "2", "2", "seeds"], ["mean", "4", "2", "seeds"]
    ]  # fmt: skip
    before = sorted(path.stat().st_mtime_ns for path in root.glob("sweep/*/metrics.json"))
    run(sweep)  # given again it measures nothing, and says the same
    assert last_table(capsys.readouterr().out) == summed_up
    assert sorted(p.stat().st_mtime_ns for p in root.glob("sweep/*/metrics.json")) == before


def last_table(said: str) -> list[str]:
    """The lines of a sweep's table, its header first, and those below it."""
    return said[said.rindex("\njob ") :].splitlines()[1:]


@pytest.mark.sweeps
def test_a_sweep_of_a_file_goes_on_by_its_command_and_with_more_seeds(
    world, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    fixed = ("adapter.num_tokens", "hydra.sweep.dir")
    own = [line for line in world if not line.startswith(fixed)]
    sweep = ["-m", "+sweep=tokens", *with_changes(own, "trainer.max_steps=1")]
    run([*sweep, "adapter.num_tokens=2,3"])
    folder = Path("runs/tiny/tokens")
    first = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert len(first) == 2
    run([*sweep, "adapter.num_tokens=2,3", "seed=0,1"])
    table = load_runs(folder)
    assert list(table["adapter.num_tokens"]) == [2, 3, 2, 3] and list(table["seed"]) == [0, 0, 1, 1]
    assert {path: path.stat().st_mtime_ns for path in first} == first
    summed_up = last_table(capsys.readouterr().out)
    assert sum(line.startswith("mean") for line in summed_up) == 2


@pytest.mark.sweeps
def test_a_sweep_given_again_continues_the_job_that_was_killed(world, tmp_path):
    sweep = ["-m", *with_changes(world, "trainer.max_steps=1,2", f"hydra.sweep.dir={tmp_path}")]
    run(sweep)
    first, second = tmp_path / "0", tmp_path / "1"
    measured = json.loads((second / "metrics.json").read_text())
    stamp = (first / "metrics.json").stat().st_mtime_ns
    (second / "metrics.json").unlink()  # as if killed between training and evaluation
    run(sweep)
    assert (first / "metrics.json").stat().st_mtime_ns == stamp
    assert not (first / "environment.1.json").exists()
    again = json.loads((second / "metrics.json").read_text())
    assert again["t2i"] == measured["t2i"]


def test_a_failed_job_does_not_end_the_others(world, root, tmp_path):
    with pytest.raises(EdjeError, match="1 of the sweep's jobs failed"):
        run(
            [
                "-m",
                *with_changes(
                    world,
                    "loader.batch_size=1000,8",
                    "trainer.max_steps=1",
                    f"hydra.sweep.dir={tmp_path}",
                ),
            ]
        )
    table = load_runs(tmp_path)
    assert sorted(table["status"]) == ["done", "failed"]


def test_a_residual_run_reranks_and_is_refused_as_joint(world, root, tmp_path):
    run(with_changes(world, "score=residual", f"hydra.run.dir={tmp_path / 'residual'}"))
    assert json.loads((tmp_path / "residual" / "metrics.json").read_text())["score"] == "residual"
    evaluate = ["task=evaluate", f"hydra.run.dir={tmp_path / 'evaluated'}"]
    with pytest.raises(EdjeError, match=r"score=joint: .* trained with score=residual"):
        run([*evaluate, f"checkpoint={tmp_path / 'residual'}", "score=joint"])
    with pytest.raises(EdjeError, match=r"score=residual: .* trained without"):
        run(
            [
                *evaluate,
                f"checkpoint={root / 'run'}",
                "score=residual",
                f"hydra.run.dir={tmp_path / 'evaluated2'}",
            ]
        )


def test_distillation_follows_a_teacher_and_needs_one(world, root, tmp_path):
    terms = "objective=[matching,distillation]"
    run(
        with_changes(
            world,
            terms,
            f"teacher={root / 'run'}",
            "start=teacher",
            f"hydra.run.dir={tmp_path / 'student'}",
        )
    )
    logged = pd.read_csv(tmp_path / "student" / "logs" / "part_0" / "metrics.csv")
    assert logged["train/distillation"].notna().any()
    assert logged["time/data_wait"].dropna().between(0, 1).all()
    with pytest.raises(EdjeError, match="needs teacher="):
        run(with_changes(world, terms, f"hydra.run.dir={tmp_path / 'alone'}"))


def test_a_checkpoint_or_store_of_another_backbone_is_refused(world, root, tmp_path):
    other = make_siglip(tmp_path / "other", seed=1)
    with pytest.raises(EdjeError, match="another backbone's tokens"):
        run(
            [
                "task=evaluate",
                f"checkpoint={root / 'run'}",
                f"backbone.pretrained={other}",
                f"cache_dir={tmp_path}",
                f"hydra.run.dir={tmp_path / 'a'}",
            ]
        )
    store = next((root / "cache" / "folder-train").glob("raw-*"))
    with pytest.raises(EdjeError, match=r"holds other tokens than this run needs: .*images"):
        run(
            [
                "task=evaluate",
                f"checkpoint={root / 'run'}",
                f"store={store}",
                f"hydra.run.dir={tmp_path / 'b'}",
            ]
        )


def test_a_cut_off_checkpoint_gets_one_clear_message(root, tmp_path):
    whole = (root / "run" / "checkpoints" / "model.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdjeError, match=r"cut\.ckpt.*truncated"):
        run(
            [
                "task=evaluate",
                f"checkpoint={tmp_path / 'cut.ckpt'}",
                f"hydra.run.dir={tmp_path / 'a'}",
            ]
        )


def test_bad_images_are_an_error_or_left_out_and_listed(tmp_path):
    overrides = make_world(tmp_path)
    (tmp_path / "data" / "images" / "002.png").write_bytes(b"not a picture")
    with pytest.raises(EdjeError, match=r"002\.png"):
        run(with_changes(overrides, "trainer.max_steps=1"))
    shutil.rmtree(tmp_path / "run")
    run(with_changes(overrides, "trainer.max_steps=1", "data.bad_images=skip"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["num_images"], metrics["num_skipped_images"]) == (7, 1)
    assert json.loads((tmp_path / "run" / "skipped_images.json").read_text()) == ["002.png"]


def test_a_missing_data_root_is_named(world, tmp_path):
    with pytest.raises(EdjeError, match=r"data root .*nowhere is not a folder"):
        run(with_changes(world, "data.root=nowhere", f"hydra.run.dir={tmp_path / 'a'}"))


@pytest.mark.kills
def test_a_terminated_run_resumes_to_the_same_result(tmp_path):
    """From the shell: SIGTERM while training, exit status 143, resume=, the metrics agree."""
    overrides = with_changes(make_world(tmp_path), "trainer.max_steps=120", "loader.num_workers=1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "run.py"]
    cut = [*command, *overrides]
    process = subprocess.Popen(
        cut, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "run" / "logs" / "part_0" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size > 200) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: the workers get it too
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"resume={tmp_path / 'run'}" in said
    assert not (tmp_path / "run" / "metrics.json").exists()
    run([f"resume={tmp_path / 'run'}"])
    run(with_changes(overrides, f"hydra.run.dir={tmp_path / 'straight'}"))
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "straight")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["negatives.count=3"], r"^negatives: need 1 <= count <= pool, got count=3, pool=2$"),
        (["joint.num_heads=5"], r"hidden size \(32\) is not a multiple of the number of attention"),
    ],
)
def test_values_that_a_constructor_refuses_get_its_own_words(world, root, tmp_path, choices, said):
    with pytest.raises(EdjeError, match=said):
        run(with_changes(world, *choices, f"hydra.run.dir={tmp_path / 'run'}"))


def test_an_impossible_data_set_gets_its_own_words_too(tmp_path):
    with pytest.raises(EdjeError, match=r"^data.siblings=8: 3 objects give 1 to 4"):
        run(["data.siblings=8", f"hydra.run.dir={tmp_path / 'run'}"])

"""What the notebooks say and compute, their cells run in order on made-up runs.

Executed as Jupyter does, on runs of their own commands: test_executed_notebooks.py.
"""

import ast
import json
import os
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import torch
import yaml

from edje.backbones.option_values import option_values, resolved
from edje.inference.checkpoint import (
    AdapterSpecification,
    build_reranker,
    save_checkpoint,
)
from edje.installed import asset
from edje.models.adapters import BackboneFacts
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import checkpoint_of
from tests.tiny.runs import write_run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
READING = {"edje.analysis"}
# What a notebook needs of edje besides reading runs.
MAY_USE = {
    "what_tokens_see.ipynb": {
        "edje",  # Reranker and load_backbone, which compress pictures
        "edje.images.decoder.open_image",
        "edje.data.shapes.scene_places.occupied_cells",
        "edje.data.shapes.scene_places.read_scenes",
        "edje.quiet.quiet_libraries",
    }
}
SHIPPED = Path(asset("shapes/backbone"))


def cells(notebook):
    return json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]


def code_cells(notebook):
    return [cell for cell in cells(notebook) if cell["cell_type"] == "code"]


def source(cell):
    """The cell's Python, without the lines that speak to Jupyter."""
    return "".join("\n" if line.startswith("%") else line for line in cell["source"])


def executed(notebook):
    """The names that its cells leave, run in order."""
    matplotlib.use("agg")
    names: dict = {}
    for number, cell in enumerate(code_cells(notebook)):
        exec(compile(source(cell), f"{notebook}, cell {number}", "exec"), names)
    return names


def test_a_tour_is_of_the_run_evaluated_last_and_counts_what_reranking_did(
    tmp_path, monkeypatch, capsys
):
    write_run(tmp_path / "shapes" / "sweep" / "0")
    write_run(tmp_path / "shapes" / "sweep" / "1", seed=1)
    os.utime(tmp_path / "shapes" / "sweep" / "1" / "metrics.json", (1e9, 1e9))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("EDJE_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = executed("tour_of_a_run.ipynb")
    assert (len(names["runs"]), len(names["done"])) == (3, 2)
    assert names["run"] == tmp_path / "shapes" / "sweep" / "0"
    counts = names["outcomes"]["outcome"].value_counts()
    assert names["answer"].startswith(f"Of 36 captions, reranking fixed {counts['fixed']} (")
    assert f"{counts.get('missed', 0)} were out of its reach" in names["answer"]
    assert capsys.readouterr().out.rstrip().endswith(names["answer"])


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """4 and 8 tokens rank alike, 2 are far behind; a failed job has no configuration."""
    for job, (tokens, seed) in enumerate([(2, 0), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1)]):
        run = tmp_path / str(job)
        write_run(run, images=20, seed=seed)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("tokens: 8", f"tokens: {tokens}"))
        (run / "overrides.yaml").write_text(f"[adapter.num_tokens={tokens}, seed={seed}]")
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["storage_bytes_per_image"] = 768 * tokens
        metrics["scored_pairs_per_second"] = 8000.0 / tokens + seed
        (run / "metrics.json").write_text(json.dumps(metrics))
        if tokens == 2:
            table = pd.read_parquet(run / "candidates.parquet")
            table.assign(final=-table["final"]).to_parquet(run / "candidates.parquet")
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "error.txt").write_text("out of luck")
    (tmp_path / "6" / "overrides.yaml").write_text("[]")
    monkeypatch.setenv("EDJE_SWEEP", str(tmp_path))
    return tmp_path


def test_a_decision_takes_the_cheapest_choice_that_is_not_shown_to_be_worse(sweep):
    names = executed("decide.ipynb")
    assert (len(names["runs"]), len(names["done"])) == (7, 6)
    worse = names["choices"].loc[names["choices"]["worse"], "choice"]
    assert worse.tolist() == ["adapter.num_tokens=2"]
    assert names["taken"]["choice"] == "adapter.num_tokens=4"
    assert names["run"] == sweep / "2"
    assert names["answer"].startswith("Take adapter.num_tokens=4: ")
    assert "with 3,072 bytes per image" in names["answer"]


def test_a_token_budget_is_chosen_with_its_recall_bytes_and_speed(sweep):
    names = executed("token_budget.ipynb")
    assert names["answer"].startswith("Take 4 tokens: ")
    budget = names["budgets"].iloc[1]
    assert f"{budget['t2i']:.1f}% [{budget['t2i.low']:.1f}, " in names["answer"]
    assert "They take 3,072 bytes per image and score 2,000 pairs/s" in names["answer"]
    assert "8 tokens take 6,144 and score 1,000 (1,000 to 1,001)" in names["answer"]


def write_checkpoint(run):
    """A fresh adapter of 2 tokens over the shipped backbone."""
    values = resolved(option_values("shapes"), "the shipped backbone")
    facts = BackboneFacts(16, 96, 3, 1e-6, 96)
    adapter = AdapterSpecification("compression", {"num_tokens": 2, "hidden_width": 16})
    torch.manual_seed(0)
    language_model = tiny_language_model()
    model = build_reranker(adapter, facts, language_model, False)
    config = yaml.safe_dump({"backbone": values})
    (run / "checkpoints").mkdir()
    save_checkpoint(
        checkpoint_of(model, language_model, facts=facts, adapter=adapter, config=config),
        run / "checkpoints" / "model.ckpt",
    )


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the backbone is not in this tree")
def test_the_maps_of_any_trained_run_are_measured_and_of_shapes_against_their_places(
    tmp_path, monkeypatch
):
    write_run(tmp_path / "photos")
    write_checkpoint(tmp_path / "photos")
    metrics = json.loads((tmp_path / "photos" / "metrics.json").read_text())
    (tmp_path / "photos" / "metrics.json").write_text(json.dumps(metrics | {"dataset": "photos"}))
    monkeypatch.setenv("EDJE_RUNS", str(tmp_path))
    names = executed("what_tokens_see.ipynb")
    assert names["maps"].shape == (12, 3, 2, 16)
    assert names["answer"].startswith("The 2 tokens read through 3 heads. The sharpest, head ")
    assert names["inside"] is None and "hold a shape" not in names["answer"]


@pytest.mark.parametrize("notebook", ALL)
def test_it_opens_with_its_question_and_ends_with_an_answer_and_its_picture(notebook):
    first, last = cells(notebook)[0], cells(notebook)[-1]
    opening = "".join(first["source"])
    assert first["cell_type"] == "markdown" and opening.startswith("# ")
    assert "**What it answers:**" in opening and "python run.py" in opening
    assert cells(notebook)[-2]["source"][0].startswith("## Answer")
    *_, said, drawn = ast.parse(source(last)).body
    assert ast.unparse(said) == "print(answer)"
    assert isinstance(drawn, ast.Expr) and ast.unparse(drawn).startswith("analysis.")


@pytest.mark.parametrize("notebook", ALL)
def test_jupyter_is_told_to_show_figures(notebook):
    assert code_cells(notebook)[0]["source"][0] == "%matplotlib inline\n"


@pytest.mark.parametrize("notebook", ALL)
def test_it_reads_runs_through_the_analysis_package_only(notebook):
    imported = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    edje = {name for name in imported if name.split(".")[0] == "edje"}
    assert edje == READING | MAY_USE.get(notebook, set())
    beside = {"torch", "yaml"} if "edje" in edje else set()  # of a reranker's tensors and config
    assert not imported & ({"torch", "pandas", "json", "yaml"} - beside)


@pytest.mark.parametrize("notebook", ALL)
@pytest.mark.parametrize("part", ["outputs", "execution_count"])
def test_it_is_kept_without_results(part, notebook):
    assert not any(cell[part] for cell in code_cells(notebook))

import ast
import json
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def code_cells(notebook):
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def executed(notebook):
    """The names that its cells leave, run in order."""
    matplotlib.use("agg")
    names: dict = {}
    for number, cell in enumerate(code_cells(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook}, cell {number}", "exec"), names)
    return names


def test_its_cells_run_in_order_on_a_folder_of_runs(tmp_path, make_run, monkeypatch):
    make_run(tmp_path / "shapes" / "sweep" / "0")
    make_run(tmp_path / "shapes" / "sweep" / "1", seed=1)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("EDJE_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = executed("read_runs.ipynb")
    assert len(names["runs"]) == 3
    assert len(names["done"]) == 2
    assert names["run"] == tmp_path / "shapes" / "sweep" / "1"
    assert max(names["recall"].values()) <= 1


def test_a_decision_takes_the_cheapest_choice_that_is_not_shown_to_be_worse(
    tmp_path, make_run, monkeypatch
):
    """4 and 8 tokens rank alike, 2 are far behind; a failed job has no configuration."""
    for job, (tokens, seed) in enumerate([(2, 0), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1)]):
        run = tmp_path / str(job)
        make_run(run, images=20, seed=seed)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("tokens: 8", f"tokens: {tokens}"))
        (run / "overrides.yaml").write_text(f"[adapter.num_tokens={tokens}, seed={seed}]")
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["storage_bytes_per_image"] = 768 * tokens
        (run / "metrics.json").write_text(json.dumps(metrics))
        if tokens == 2:
            table = pd.read_parquet(run / "candidates.parquet")
            table.assign(final=-table["final"]).to_parquet(run / "candidates.parquet")
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "error.txt").write_text("out of luck")
    (tmp_path / "6" / "overrides.yaml").write_text("[]")
    monkeypatch.setenv("EDJE_SWEEP", str(tmp_path))
    names = executed("decide.ipynb")
    assert (len(names["runs"]), len(names["done"])) == (7, 6)
    assert names["worse"] == {"adapter.num_tokens=2"}
    assert names["chosen"] == "adapter.num_tokens=4"
    assert names["run"] == tmp_path / "2"
    assert names["answer"].startswith("Take adapter.num_tokens=4: ")
    assert "with 3,072 bytes per image" in names["answer"]


@pytest.mark.parametrize("notebook", ALL)
def test_it_reads_runs_through_the_analysis_package_only(notebook):
    imported = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    edje = {name for name in imported if name.startswith("edje")}
    assert edje == {"edje.analysis"}
    assert not imported & {"torch", "pandas", "json", "yaml"}


@pytest.mark.parametrize("notebook", ALL)
@pytest.mark.parametrize("part", ["outputs", "execution_count"])
def test_it_is_kept_without_results(part, notebook):
    assert not any(cell[part] for cell in code_cells(notebook))

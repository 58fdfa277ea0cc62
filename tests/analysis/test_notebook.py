import ast
import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "read_runs.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_its_cells_run_in_order_on_a_folder_of_runs(tmp_path, make_run, monkeypatch):
    make_run(tmp_path / "shapes" / "sweep" / "0")
    make_run(tmp_path / "shapes" / "sweep" / "1", seed=1)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("EDJE_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for number, cell in enumerate(code_cells()):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(names["runs"]) == 3
    assert len(names["done"]) == 2
    assert names["run"] == tmp_path / "shapes" / "sweep" / "1"
    assert max(names["recall"].values()) <= 1


def test_it_reads_runs_through_the_analysis_package_only():
    imported = set()
    for cell in code_cells():
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    edje = {name for name in imported if name.startswith("edje")}
    assert edje == {"edje.analysis"}
    assert not imported & {"torch", "pandas", "json", "yaml"}


@pytest.mark.parametrize("part", ["outputs", "execution_count"])
def test_it_is_kept_without_results(part):
    assert not any(cell[part] for cell in code_cells())

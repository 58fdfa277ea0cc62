import json
import logging

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from edje.analysis.curves import loss_curves
from edje.analysis.failures import query_outcomes
from edje.analysis.gallery import gallery
from edje.analysis.plots import save_plots
from edje.analysis.recall import recall_bars
from edje.analysis.style import BAD, GOOD, TRUE, families
from edje.errors import EdjeError


def texts(figure):
    found = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in found]


def test_a_finished_run_gets_all_three_plots(tmp_path, make_run):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
    written = save_plots(tmp_path / "run", examples=2)
    assert [path.name for path in written] == ["losses.png", "recall.png", "gallery.png"]
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_captions_in_other_writings_take_the_fonts_that_are_there():
    assert families(["DejaVu Sans"]) == ["sans-serif"]
    assert families(["Yu Gothic", "Noto Sans CJK SC", "Arial"]) == [
        "sans-serif",
        "Noto Sans CJK SC",
        "Yu Gothic",
    ]


def test_a_plot_without_its_data_is_left_out_and_logged(tmp_path, make_run, caplog):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "logs" / "metrics.csv").unlink()
    (tmp_path / "run" / "images.parquet").unlink()
    (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
    with caplog.at_level(logging.WARNING):
        written = save_plots(tmp_path / "run")
    assert [path.name for path in written] == ["recall.png"]
    assert "No plot losses" in caplog.text
    assert "No plot gallery" in caplog.text


def test_nothing_is_said_of_the_losses_of_an_evaluation(tmp_path, make_run, caplog):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "logs" / "metrics.csv").unlink()
    with caplog.at_level(logging.WARNING):
        written = save_plots(tmp_path / "run", examples=2)
    assert [path.name for path in written] == ["recall.png", "gallery.png"]
    assert not caplog.text


def test_loss_curves_have_a_panel_per_term_the_loss_first(run_folder):
    panels = [axes for axes in loss_curves(run_folder).axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["loss", "matching", "masked language", "text recovery"]
    raw, smooth = panels[0].get_lines()
    assert len(raw.get_xdata()) == len(smooth.get_xdata()) == 79
    assert np.diff(smooth.get_ydata()).std() < np.diff(raw.get_ydata()).std()


def test_steps_logged_twice_by_a_resumed_run_are_drawn_once(tmp_path, make_run):
    make_run(tmp_path / "run")
    path = tmp_path / "run" / "logs" / "metrics.csv"
    log = pd.read_csv(path)
    pd.concat([log, log.iloc[40:60]]).to_csv(path, index=False)
    assert len(loss_curves(tmp_path / "run").axes[0].get_lines()[0].get_xdata()) == 79


def test_constant_losses_and_a_single_point_can_be_drawn(tmp_path):
    (tmp_path / "logs").mkdir()
    for steps in ([1], [1, 2, 3]):
        log = pd.DataFrame({"step": steps, "train/loss": 0.5})
        log.to_csv(tmp_path / "logs" / "metrics.csv", index=False)
        loss_curves(tmp_path)


def test_logs_without_losses_are_refused(tmp_path):
    few = r"fewer steps than its trainer\.log_every_n_steps"
    with pytest.raises(EdjeError, match=rf"No metrics\.csv.* no CSV logger, or {few}"):
        loss_curves(tmp_path)
    (tmp_path / "logs").mkdir()
    pd.DataFrame({"step": [1], "lr": [0.1]}).to_csv(tmp_path / "logs" / "metrics.csv", index=False)
    with pytest.raises(EdjeError, match=f"Nothing called train/.*{few}"):
        loss_curves(tmp_path)


def test_recall_bars_show_the_figures_of_metrics_json(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    figure = recall_bars(run_folder)
    assert len(figure.axes) == 2
    shown = texts(figure)
    for direction in ("t2i", "i2t"):
        for stage in ("first_stage", "reranked"):
            for estimate in metrics[direction][stage].values():
                assert f"{estimate['value']:.1f}" in shown
        ceiling = metrics[direction]["ceiling"]["recall@1"]["value"]
        assert f"ceiling\n{ceiling:.1f}" in shown
        assert f"{metrics[direction]['gain']['recall@1']['value']:+.1f}" in shown


def test_the_ceiling_crosses_out_no_number(run_folder):
    path = run_folder / "metrics.json"
    metrics = json.loads(path.read_text())
    for direction in ("t2i", "i2t"):
        own = metrics[direction]
        for stage in ("first_stage", "reranked"):
            own[stage] = {k: {"value": 3.0, "low": 1.0, "high": 6.0} for k in own[stage]}
        own["ceiling"] = {k: {"value": 11.0, "low": 9.0, "high": 13.0} for k in own["ceiling"]}
    path.write_text(json.dumps(metrics))
    figure = recall_bars(run_folder)
    figure.canvas.draw()
    for panel in figure.axes:
        height = panel.transData.transform((0, 11))[1]
        (line,) = [one for one in panel.lines if list(one.get_ydata()) == [11, 11]]
        numbers = [text for text in panel.texts if text.get_text() == "3.0"]
        assert len(numbers) == 2 * len(panel.get_xticks())
        for text in numbers:
            extent = text.get_window_extent()
            assert extent.y0 < height < extent.y1  # the number is at the line
            assert text.get_bbox_patch().get_facecolor() == (1, 1, 1, 1)
            assert text.get_zorder() > line.get_zorder()


def test_recall_of_nothing_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(EdjeError, match="holds no recall"):
        recall_bars(tmp_path)


def rectangles(figure, colour):
    from matplotlib.colors import to_rgba

    artists = [*figure.artists, *(patch for axes in figure.axes for patch in axes.patches)]
    patches = [artist for artist in artists if isinstance(artist, Rectangle)]
    colours = {"fill": Rectangle.get_facecolor, "frame": Rectangle.get_edgecolor}
    return [
        patch
        for patch in patches
        if colours["fill" if patch.get_fill() else "frame"](patch) == to_rgba(colour)
    ]


def test_the_gallery_shows_help_and_harm_with_the_true_image_framed(run_folder):
    figure = gallery(run_folder, examples=6)
    helped, hurt = rectangles(figure, GOOD), rectangles(figure, BAD)
    assert len(helped) + len(hurt) == 6
    assert helped
    assert hurt
    assert len(figure.axes) == 6 * 2 * 5
    # Each example has its true image first in one of its rows at least.
    assert len(rectangles(figure, TRUE)) >= 6
    captions = [text for text in texts(figure) if text.startswith("a drawing of scene")]
    assert len(captions) == 6
    assert all("$5 & more" in caption for caption in captions)


def test_the_gallery_draws_by_its_seed(run_folder):
    assert texts(gallery(run_folder, examples=2)) == texts(gallery(run_folder, examples=2))
    drawn = {tuple(texts(gallery(run_folder, examples=2, seed=seed))) for seed in range(4)}
    assert len(drawn) > 1


def test_the_gallery_draws_the_queries_asked_for(run_folder):
    outcomes = query_outcomes(run_folder)
    asked = outcomes.loc[outcomes["outcome"] == "fixed", ["query_id", "text"]].iloc[:2]
    shown = texts(gallery(run_folder, queries=set(asked["query_id"])))
    captions = {text.replace("\n", " ") for text in shown if text.startswith("a drawing of scene")}
    assert captions == set(asked["text"])
    assert any(
        "2 captions, reranking newly put the true image first for 2" in text for text in shown
    )
    with pytest.raises(EdjeError, match="1 of 2 are not text queries of this run, such as 'x'"):
        gallery(run_folder, queries=["x", asked["query_id"].iloc[0]])


def test_a_picture_that_is_gone_leaves_a_marked_square(tmp_path, make_run):
    make_run(tmp_path / "run")
    for path in (tmp_path / "run_images").iterdir():
        path.unlink()
    assert texts(gallery(tmp_path / "run", examples=1)).count("no file") == 10


def test_reranking_that_changed_nothing_says_so(tmp_path, make_run):
    make_run(tmp_path / "run")
    path = tmp_path / "run" / "candidates.parquet"
    table = pd.read_parquet(path)
    table.assign(final=table["first_stage"]).to_parquet(path)
    assert "Reranking changed no first answer." in texts(gallery(tmp_path / "run"))

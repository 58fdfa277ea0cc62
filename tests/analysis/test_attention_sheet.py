import matplotlib.colors
import numpy as np
import pytest
import torch

from edje.analysis import attention_sheet
from edje.errors import EdjeError


def sheet(shown: int, places: int, pictures: int = 2):
    maps = torch.rand(pictures, shown, places, generator=torch.Generator().manual_seed(0))
    maps = maps / maps.sum(dim=2, keepdim=True)
    pixels = torch.randn(pictures, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    return maps, attention_sheet(pixels, maps, labels=[f"picture {n}" for n in range(pictures)])


def heat_of(axes) -> np.ndarray:
    return axes.images[1].get_array().data


@pytest.mark.parametrize("shown", [1, 3, 8, 10])
def test_a_sheet_shows_every_map_of_every_picture_in_its_place(shown: int) -> None:
    maps, figure = sheet(shown, places=9)
    overlays = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(overlays) == 2 * shown
    for axes, weights in zip(overlays, maps.flatten(0, 1), strict=True):
        np.testing.assert_allclose(heat_of(axes), 100 * weights.reshape(3, 3), rtol=1e-6)
        assert axes.images[1].get_extent() == [-0.5, 31.5, 23.5, -0.5]  # over the whole picture
        assert axes.images[1].norm.vmax == pytest.approx(100 * float(maps.max()))
    texts = [text.get_text() for text in figure.texts]
    assert {"picture 0", "picture 1"} <= set(texts)
    columns = {round(axes.get_position().x0, 4) for axes in overlays}
    assert len(columns) == min(shown, 8)


@pytest.mark.parametrize(("shown", "pictures"), [(1, 1), (10, 3)])
def test_panels_of_a_sheet_do_not_overlap(shown: int, pictures: int) -> None:
    _, figure = sheet(shown, places=4, pictures=pictures)
    figure.draw_without_rendering()
    for text in figure.texts:
        inside = text.get_window_extent()
        assert inside.x0 >= 0 and inside.x1 <= figure.bbox.x1
    boxes = [axes.get_position() for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        for other in boxes[:number]:
            assert (
                min(box.x1, other.x1) <= max(box.x0, other.x0) + 1e-9
                or min(box.y1, other.y1) <= max(box.y0, other.y0) + 1e-9
            )


def test_what_has_no_weight_stays_as_it_is_and_what_has_most_can_still_be_seen() -> None:
    _, figure = sheet(1, places=4)
    colours = next(axes for axes in figure.axes if len(axes.images) == 2).images[1].cmap
    assert matplotlib.colors.to_rgba(colours(0.0))[3] == 0
    assert 0.5 < matplotlib.colors.to_rgba(colours(1.0))[3] < 0.9


@pytest.mark.parametrize(
    ("pictures", "maps", "labels", "said"),
    [
        (1, torch.ones(2, 3, 4), None, "got 1 pictures, maps of 2 and 2 labels"),
        (2, torch.ones(2, 3, 4), ["one"], "got 2 pictures, maps of 2 and 1 labels"),
        (0, torch.ones(0, 3, 4), None, "got 0 pictures"),
        (2, torch.ones(2, 3, 5), None, "maps over 5 vision tokens form no square grid"),
    ],
)
def test_what_cannot_be_laid_over_pictures_is_refused(pictures, maps, labels, said) -> None:
    with pytest.raises(EdjeError, match=said):
        attention_sheet(torch.rand(pictures, 3, 8, 8), maps, labels=labels)


def test_pictures_are_shown_in_their_own_colours_however_the_tower_standardises() -> None:
    colours = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    colours[0, :, 0, 0], colours[1, :, 3, 5] = 0.0, 1.0  # something black, something white
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    pixels = (colours - mean[:, None, None]) / deviation[:, None, None]
    figure = attention_sheet(pixels, torch.full((2, 1, 4), 0.25))
    drawn = [axes.images[0].get_array() for axes in figure.axes if len(axes.images) == 1]
    np.testing.assert_allclose(drawn, colours.movedim(1, 3), atol=1e-5)


def test_long_labels_keep_off_the_pictures() -> None:
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    figure = attention_sheet(pixels, torch.full((1, 1, 4), 0.25), labels=["1000268201_" * 9])
    figure.draw_without_rendering()
    (label,) = (text for text in figure.texts if text.get_text().startswith("1000268201_"))
    picture = min(axes.bbox.x0 for axes in figure.axes if axes.images)
    assert label.get_window_extent().x1 < picture

"""A very long image loses its far ends; its centre stays where it was."""

import numpy as np
import pytest
from PIL import Image

from edje.backbones.thin_images import without_far_ends
from tests.tiny.image_files import photo


@pytest.mark.parametrize("size", [(40, 30), (150, 3), (3, 151), (1, 1)])
def test_other_images_are_left_as_they_are(size):
    image = photo(*size)
    assert without_far_ends(image) is image


@pytest.mark.parametrize("longer", [152, 153, 2000, 65_500])
def test_as_much_is_cut_off_at_both_ends(longer):
    row = np.arange(longer, dtype=np.int32)
    kept = np.asarray(without_far_ends(Image.fromarray(np.tile(row, (3, 1)))))
    assert kept.shape in ((3, 150), (3, 151))
    assert kept[0, 0] == longer - 1 - kept[0, -1]
    assert (np.diff(kept[0]) == 1).all() and (kept == kept[0]).all()
    upright = without_far_ends(Image.fromarray(np.tile(row[:, None], (1, 3))))
    assert (np.asarray(upright) == kept.T).all()

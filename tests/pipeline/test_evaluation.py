import pytest
import torch

from edje.data.sources.folder import FolderSource
from edje.errors import EdjeError
from edje.pipeline.compressed import stored_tokens
from edje.pipeline.evaluation import evaluate, warn_of_ties
from edje.pipeline.start import CheckpointStart
from edje.pipeline.token_cache import Cache
from tests.tiny.rerankers import LOCAL, tiny_checkpoint
from tests.tiny.world import make_images


def test_ties_beyond_a_tenth_of_a_percent_are_told_by_direction(caplog):
    warn_of_ties({"t2i": 0.0009, "i2t": 0.02}, torch.bfloat16)
    assert "i2t: 2.00% of the candidates tie" in caplog.text and "t2i: 0.09" not in caplog.text


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_finer_precision_is_advised_where_there_is_one(caplog, precision):
    warn_of_ties({"t2i": 0.02}, precision)
    assert ("Try a finer scoring.precision" in caplog.text) == (precision != torch.float32)
    assert "the model gives them the same score" in caplog.text


def test_an_empty_text_is_no_path(tmp_path):
    """It would mean the current folder, or the cache's own store."""
    source = FolderSource(name="mine", root=str(make_images(tmp_path / "data")), images="images")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(EdjeError, match="checkpoint='': expected a path"):
        evaluate("", source)
    with pytest.raises(EdjeError, match="store='': expected a path"):
        stored_tokens(cache, source, "val", tiny_checkpoint(LOCAL), store="")
    with pytest.raises(EdjeError, match=r"start\.path='': expected a path"):
        CheckpointStart(path="")
    with pytest.raises(EdjeError, match=r"data\.root='': expected a path"):
        FolderSource(name="mine", root="")

import pytest
import torch

from edje.pipeline.evaluation import warn_of_ties


def test_ties_beyond_a_tenth_of_a_percent_are_told_by_direction(caplog):
    warn_of_ties({"t2i": 0.0009, "i2t": 0.02}, torch.bfloat16)
    assert "i2t: 2.00% of the candidates tie" in caplog.text and "t2i: 0.09" not in caplog.text


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_finer_precision_is_advised_where_there_is_one(caplog, precision):
    warn_of_ties({"t2i": 0.02}, precision)
    assert ("Try a finer scoring.precision" in caplog.text) == (precision != torch.float32)
    assert "the model gives them the same score" in caplog.text

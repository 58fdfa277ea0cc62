from edje.pipeline.evaluation import warn_of_ties


def test_ties_beyond_a_tenth_of_a_percent_are_told_by_direction(caplog):
    warn_of_ties({"t2i": 0.0009, "i2t": 0.02})
    assert "i2t: 2.00% of the candidates tie" in caplog.text and "t2i: 0.09" not in caplog.text

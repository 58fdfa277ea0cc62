import math
import os
from pathlib import Path
from typing import Any

import pytest

from edje.errors import EdjeError
from edje.sweeps.trials import Trials, alone_in

optuna = pytest.importorskip("optuna", reason="optuna is not installed: edje[sweep]")
RATE = {"lr": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)}


def tried(folder: Path, count: int, **options: Any) -> list[float]:
    """The rates of further trials, whose figure is greatest at 1e-3."""
    folder.mkdir(exist_ok=True)
    trials = Trials(folder, RATE, **options)
    rates = []
    for _ in range(count):
        trial = trials.propose()
        rates.append(float(trial.values["lr"]))
        trials.tell(trial, -abs(math.log10(rates[-1]) + 3))
    return rates


def test_a_study_comes_closer_than_chance(tmp_path: Path) -> None:
    last = [
        abs(math.log10(rate) + 3)
        for seed in range(3)
        for rate in tried(tmp_path / f"{seed}", 25, seed=seed)[10:]
    ]
    # By chance 1.0; of 25 seeds each gave 0.40 to 0.85, on average 0.57.
    assert sum(last) / len(last) < 0.8


def test_a_gaussian_process_comes_close_in_few_trials(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="optuna's Gaussian process needs scipy")
    rates = tried(tmp_path, 9, sampler="gp", sampler_options={"n_startup_trials": 5})
    assert min(abs(math.log10(rate) + 3) for rate in rates[5:]) < 0.3


def test_the_logarithm_of_a_rate_is_spread_evenly(tmp_path: Path) -> None:
    below = sum(rate < 1e-3 for rate in tried(tmp_path, 60, sampler="random"))
    assert 18 <= below <= 42  # 30 expected; evenly without the logarithm it would be 0.6


def test_a_seed_gives_the_same_proposals_and_another_seed_others(tmp_path: Path) -> None:
    first, same, other = (tried(tmp_path / f"{n}", 15, seed=s) for n, s in enumerate((1, 1, 2)))
    assert first == same
    assert not set(first) & set(other)


def test_a_study_opened_again_proposes_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    parts = tried(tmp_path / "parts", 6) + tried(tmp_path / "parts", 9)
    assert parts == tried(tmp_path / "straight", 15)
    assert len(set(parts)) == 15


def test_what_was_begun_is_known_and_what_was_cut_off_while_proposed_failed(
    tmp_path: Path,
) -> None:
    both = {**RATE, "tokens": optuna.distributions.CategoricalDistribution((16, 32))}
    trials = Trials(tmp_path, both)
    begun = [trials.propose() for _ in range(3)]
    trials.tell(begun[0], 3.0)
    trials._study.ask(RATE)  # as a kill between two values leaves it
    again = Trials(tmp_path, both)
    assert again.interrupted() == begun[1:]
    assert again.interrupted() == begun[1:]
    again.tell(begun[1], 5.0)
    again.tell(begun[2], float("nan"))
    assert [trial.number for trial in again.finished()] == [0, 1]
    assert again.propose().number == 4
    best = again.best()
    assert best is not None and (best.number, best.figure) == (1, 5.0)


def test_of_equal_figures_the_first_is_the_best_and_without_any_there_is_none(
    tmp_path: Path,
) -> None:
    trials = Trials(tmp_path, RATE)
    assert trials.best() is None
    for figure in (-4.0, -2.0, -2.0):
        trials.tell(trials.propose(), figure)
    best = trials.best()
    assert best is not None and best.number == 1


def test_what_a_kill_leaves_of_the_journal_is_mended(tmp_path: Path) -> None:
    first = tried(tmp_path, 3)
    whole = (tmp_path / "study.journal").read_bytes()
    (tmp_path / "study.journal").write_bytes(whole + b'{"op_code":5,"tri')
    (tmp_path / "study.journal.lock").symlink_to("study.journal")
    with alone_in(tmp_path):
        assert (tmp_path / "study.journal").read_bytes() == whole
        rates = tried(tmp_path, 3)
    assert first + rates == tried(tmp_path / "straight", 6)


def test_two_processes_in_one_study_are_refused(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with alone_in(tmp_path):
            os.write(ready[1], b".")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(EdjeError, match="another process is running this"), alone_in(tmp_path):
        raise AssertionError("held twice")
    os.write(done[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": "tpi"}, "sampler=tpi: expected one of tpe, random, gp. Did you mean tpe?"),
        ({"sampler_options": {"startup": 3}}, "sampler=tpe: .*startup"),
    ],
)
def test_a_sampler_that_is_none_is_a_clear_message(
    tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(EdjeError, match=expected):
        Trials(tmp_path, RATE, **options)

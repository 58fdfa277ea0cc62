"""Claims about loading processes: how many there are, and how they end."""

import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from edje.data.datamodules import workers
from edje.data.datamodules.workers import begin, number_of, share_of_cores, start_method
from edje.errors import EdjeError
from edje.parallel.environment import Launched

SCRIPT = """
from torch.utils.data import DataLoader, Dataset
from edje.data.datamodules.workers import begin

class Broken(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, row):
        if row == 4:
            raise ValueError("row 4 is broken")
        return row

for _ in DataLoader(Broken(), num_workers=1, worker_init_fn=begin):
    pass
"""


@pytest.mark.kills
def test_an_error_that_leaves_a_loading_process_behind_still_ends_the_program():
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1].endswith("row 4 is broken")


class Unsent:
    """A batch that can't be handed over, as one that shared memory has no room for."""

    def __reduce__(self) -> str:
        raise OSError("No space left on device")


class Rows(Dataset[Unsent]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> Unsent:
        return Unsent()


@pytest.mark.filterwarnings("ignore:.*This process .* is multi-threaded, use of fork.*")
def test_a_batch_that_cannot_be_handed_over_is_an_error_not_a_wait(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loader = DataLoader(
        Rows(),
        batch_size=None,
        num_workers=1,
        timeout=20,
        multiprocessing_context=start_method(1),
        worker_init_fn=begin,
    )
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(loader))
    assert "No space left on device" in capfd.readouterr().err


def small_memory(monkeypatch: pytest.MonkeyPatch, free: int, whole: int) -> None:
    monkeypatch.setattr("edje.data.datamodules.workers.room", lambda: free)
    monkeypatch.setattr("edje.data.datamodules.workers.whole", lambda: whole)


def test_there_are_as_many_workers_as_shared_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_memory(monkeypatch, 64, 100)
    for batch_bytes, processes, fitting in (
        (113, 1, 0),
        (22, 1, 0),
        (21, 1, 1),
        (6, 1, 4),
        (6, 2, 2),
    ):
        assert number_of("some.option", None, 4, processes, batch_bytes) == fitting
    assert number_of("some.option", None, 0, 1, 1) == 0


def test_more_workers_than_shared_memory_can_ever_have_room_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_memory(monkeypatch, 20 << 20, 64 << 20)
    batch_bytes = 113_246_208  # 64 images at 384 pixels, in float32
    expected = (
        r"^some\.option=4: /dev/shm has 64 MB of shared memory, .* of 108 MB each, take 1944\. "
        r"Use some\.option=0, .* --shm-size=1944m\.$"
    )
    with pytest.raises(EdjeError, match=expected):
        number_of("some.option", 4, 4, 2, batch_bytes)
    assert number_of("some.option", 0, 4, 2, batch_bytes) == 0
    assert number_of("some.option", 1, 4, 1, (64 << 20) // 3) == 1  # others' files may go


@pytest.mark.parametrize(
    ("launcher", "own", "right"),
    [
        ("srun", 8, 8),  # each of four tasks is bound to cores of its own
        ("srun", 32, 8),  # or to none
        ("srun", 4, 4),  # or to one thread of each core
        ("torchrun", 32, 8),  # one task, whose cores its processes share
        ("torchrun", 8, 2),
        (None, 8, 2),  # a process that started the others
    ],
)
def test_cores_that_slurm_gave_to_a_task_alone_are_not_divided_again(
    monkeypatch, launcher, own, right
):
    process = launcher and Launched(launcher, 0, 0, 4, 1)
    monkeypatch.setattr(workers, "launched", lambda: process)
    monkeypatch.setattr(workers, "cores", lambda: own)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "32")
    assert share_of_cores(4, 16) == right
    assert share_of_cores(4, 1) == 1
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert share_of_cores(4, 16) == own // 4


def test_a_worker_is_forked_only_when_threads_of_a_collective_have_had_time_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(workers.time, "sleep", waited.append)
    process = workers.FORKED.Process(target=print)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert waited == ([workers.PAUSE] if sys.version_info < (3, 12) else [])

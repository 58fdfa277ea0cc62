"""Claims about `edje serve` before it answers."""

import socket
import sys
from pathlib import Path

import pytest

from edje import EdjeError, ImageIndex, Reranker, command
from edje.serving.serve_command import TOKEN, address, is_loopback
from edje.serving.serve_command import bound as listen


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process: its status, and what it writes to stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edje", "serve", *map(str, arguments)])
        status = command.main()
        return status, capsys.readouterr().err

    return call


def test_another_host_needs_a_token(serve, index: ImageIndex) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "search.example"):
        status, err = serve(index.folder, "--host", host, "--port", 0)
        assert status == 1 and err.startswith("Error: ") and "token" in err and TOKEN in err


def test_a_token_that_can_be_guessed_is_refused(
    serve, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, err = serve(index.folder, "--token", "secret", "--port", 0)
    assert status == 1 and "16" in err and "secret" not in err.replace("--token", "")
    monkeypatch.setenv(TOKEN, "é" * 20)
    assert serve(index.folder, "--port", 0)[0] == 1


def test_a_port_that_is_taken_is_said(serve, index: ImageIndex) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, err = serve(index.folder, "--port", taken.getsockname()[1])
    assert status == 1 and "can't listen" in err and "--port" in err


def test_a_port_that_is_none_is_refused(serve, index: ImageIndex) -> None:
    for port in (-1, 65536, 99999):
        status, err = serve(index.folder, "--port", port)
        assert status == 1 and f"port {port}: expected 1 to 65535" in err


def test_a_host_may_have_brackets_and_is_not_empty(
    serve, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def bound(host: str, port: int) -> object:
        asked.append(host)
        raise EdjeError("enough")

    monkeypatch.setattr("edje.serving.serve_command.bound", bound)
    assert serve(index.folder, "--host", "[::1]")[1] == "Error: enough\n" and asked == ["::1"]
    status, err = serve(index.folder, "--host", "")
    assert status == 1 and err.startswith("Error: --host is empty.")
    with pytest.raises(EdjeError, match="can't listen at"):
        listen("a" * 70, 0)


def test_what_an_interruption_keeps_is_said_of_an_indexing_alone(
    serve, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edje.serving.serve_command.opened", interrupted)
    assert serve(index.folder, "--port", 0) == (130, "Interrupted.\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_for_requests_is_above_zero(seconds: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.on_index(["serve", "photos.edje", f"--timeout={seconds}"])
    assert f"{seconds!r} is not a number of seconds above 0" in capsys.readouterr().err


def test_what_is_no_index_is_said(serve, tmp_path: Path, shapes: Reranker) -> None:
    status, err = serve(tmp_path / "none.edje", "--port", 0)
    assert status == 1 and "edje index" in err
    ImageIndex.open(tmp_path / "empty.edje", shapes).add({})
    status, err = serve(tmp_path / "empty.edje", "--port", 0)
    assert status == 1 and "has no pictures yet" in err


def test_only_this_machine_reaches_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example")))
    with listen("127.0.0.1", 0) as listening:
        assert address(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"

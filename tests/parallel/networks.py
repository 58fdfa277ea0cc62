"""Two networks on this machine with a cable between them, for tests, where root may make them.

They have no names and nothing of them lies in the machine's own network: they are gone with the
process that holds each of them.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.parallel.nodes import lacks

CABLE = "edje0"


@dataclass(frozen=True)
class Node:
    """How a process is started there, and who it is to the others."""

    address: str
    enter: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


HERE = Node("127.0.0.1")


@contextmanager
def two_networks() -> Iterator[list[Node]]:
    if lacking := lacks(("unshare", "setpriv", "nsenter", "ip")):
        pytest.skip(f"networks of its own need {', '.join(lacking)}")
    with ExitStack() as stack:
        holders = [stack.enter_context(network()) for _ in range(2)]
        enters = [("nsenter", f"--target={holder}", "--net") for holder in holders]
        made = ip(enters[0], f"link add {CABLE} type veth peer name {CABLE} netns {holders[1]}")
        if made.returncode:
            pytest.skip(f"networks of its own: this kernel makes none ({made.stderr.strip()})")
        nodes = []
        for number, enter in enumerate(enters, 1):
            address = f"10.99.99.{number}"
            for given in (f"addr add {address}/24 dev {CABLE}", f"link set {CABLE} up"):
                ip(enter, given).check_returncode()
            ip(enter, "link set lo up").check_returncode()
            nodes.append(Node(address, enter, {"GLOO_SOCKET_IFNAME": CABLE}))
        yield nodes


def ip(enter: tuple[str, ...], given: str) -> subprocess.CompletedProcess[str]:
    command = [*enter, "ip", *given.split()]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def network() -> Iterator[int]:
    """The process that holds a network of its own."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec setpriv --pdeathsig KILL sleep 3600"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()  # it is there
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()

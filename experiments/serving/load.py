"""Load on a running `edje serve`: throughput and latency for several numbers of clients, in turns.

    edje serve photos.edje --port 8000 &
    python experiments/serving/load.py http://127.0.0.1:8000 --clients 1 16 --seconds 20 --turns 3

Each client waits for its answer before it sends the next query. Queries are made of common words;
they are all different, so that nothing is answered from a cache.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

WHO = ("a man", "two dogs", "a woman", "children", "a girl", "a boy", "people", "a brown dog")
DOES = ("running", "jumping", "playing", "sitting", "standing", "climbing", "riding", "walking")
WHERE = ("on the grass", "in the snow", "at the beach", "on a street", "in the water", "on a rock")


def queries() -> "itertools.cycle[str]":
    """384 texts, repeated forever."""
    every = itertools.product(WHO, DOES, WHERE)
    return itertools.cycle(" ".join(words) for words in every)


def request(host: str, text: str, k: int, post: bool) -> bytes:
    """The bytes of a request to our endpoint, or to LitServe's (litserve_api.py)."""
    if not post:
        path = f"/v1/search?q={quote(text)}&k={k}&top=10"
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    body = json.dumps({"q": text, "k": k, "top": 10})
    head = f"POST /v1/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def client(
    place: tuple[str, int], texts, k: int, post: bool, end: float, seconds: list, failed: list
):
    """Send queries until the time is over."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(request(place[0], next(texts), k, post))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.perf_counter() - began)
            if not head.startswith(b"HTTP/1.1 200") or not json.loads(body)["reranked"]:
                failed.append(head.split(b"\r\n")[0].decode())
    except (OSError, asyncio.IncompleteReadError) as error:
        failed.append(repr(error))
    finally:
        writer.close()


async def turn(place: tuple[str, int], clients: int, k: int, post: bool, length: float) -> dict:
    """One turn with this number of clients."""
    seconds: list[float] = []
    failed: list[str] = []
    texts = queries()
    began = time.perf_counter()
    end = began + length
    await asyncio.gather(
        *(client(place, texts, k, post, end, seconds, failed) for _ in range(clients))
    )
    took = time.perf_counter() - began
    return {"seconds": seconds, "failed": failed, "took": took}


def used(pids: list[int]) -> tuple[float, float]:
    """CPU seconds and MiB of memory of processes."""
    found = [of_process(pid) for pid in pids]
    return sum(one[0] for one in found), sum(one[1] for one in found)


def of_process(pid: int) -> tuple[float, float]:
    """The same for one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / 100, pages * 4096 / 2**20


def main() -> None:
    """Measure in turns, then print one line per number of clients."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("url")
    given.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    given.add_argument("--k", type=int, default=20)
    given.add_argument("--seconds", type=float, default=20)
    given.add_argument("--turns", type=int, default=3)
    given.add_argument("--pid", type=int, nargs="*", default=[], help="the server's, for its CPU")
    given.add_argument("--post", action="store_true", help="as litserve_api.py needs it")
    chosen = given.parse_args()
    parts = urlsplit(chosen.url)
    place = (parts.hostname or "127.0.0.1", parts.port or 8000)
    asyncio.run(
        turn(place, max(chosen.clients), chosen.k, chosen.post, 2)
    )  # builds what is built lazily
    found: dict[int, list[dict]] = {}
    for _ in range(chosen.turns):
        for clients in chosen.clients:
            before = used(chosen.pid)
            result = asyncio.run(turn(place, clients, chosen.k, chosen.post, chosen.seconds))
            after = used(chosen.pid)
            result |= {"cpu": after[0] - before[0], "memory": after[1]}
            found.setdefault(clients, []).append(result)
    for clients, turns in found.items():
        seconds = sorted(itertools.chain.from_iterable(one["seconds"] for one in turns))
        failed = [error for one in turns for error in one["failed"]]
        rates = [len(one["seconds"]) / one["took"] for one in turns]
        cut = statistics.quantiles(seconds, n=100)
        sys.stdout.write(
            f"{clients:3} clients: {statistics.median(rates):6.1f} requests/s "
            f"({', '.join(f'{rate:.1f}' for rate in rates)}), p50 {1000 * cut[49]:.0f} ms, "
            f"p99 {1000 * cut[98]:.0f} ms, {len(failed)} failed of {len(seconds)}, "
            f"CPU {1000 * sum(one['cpu'] for one in turns) / len(seconds):.1f} ms/request, "
            f"memory {', '.join(format(one['memory'], '.0f') for one in turns)} MiB\n"
        )
        for error in sorted(set(failed))[:5]:
            sys.stdout.write(f"    {error}\n")


if __name__ == "__main__":
    main()

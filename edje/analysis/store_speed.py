"""The store's benchmark as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

TITLES = {"warm": "warm", "cold": "cold", "write": "write"}


def store_table(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> Group:
    """Cells and bytes per second of every lane, and how they were measured."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("", "lane"):
        table.add_column(column)
    for column in ("cells", "cells/s", "GB/s", "p50 ms", "p99 ms", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    order = list(TITLES)
    for row in sorted(rows, key=lambda row: (order.index(row["tier"]), row["batch"])):
        table.add_row(
            TITLES[row["tier"]],
            row["lane"],
            f"{row['batch']:,}",
            f"{row['cells_per_second']:,.0f}",
            f"{row['gb_per_second']:.2f}",
            f"{row['p50_ms']:,.1f}",
            f"{row['p99_ms']:,.1f}",
            f"{row['ratio']:.2f}",
            style="bold" if row["lane"] == "store" else "",
        )
    threads = machine["threads"]
    title = (
        f"{machine['images']:,} cells of {rows[0]['cell_bytes']:,} bytes · {machine['device']} · "
        f"{threads} thread{'s' * (threads != 1)}"
    )
    footer = (
        "random rows into a tensor of the stored dtype, other rows every time; lanes in turns, "
        f"medians of {min(row['runs'] for row in rows)} or more runs; ratio: to the memory map's "
        "speed, or the plain write's; the store divides a read among the threads\n"
        "warm: a read follows one of its own lane\n"
        "writing: tokens already in memory; both sides end when their bytes are forced to disk\n"
    )
    if machine["pages_dropped"] is None:
        footer += "cold: not measured, this file system keeps the pages in memory"
    else:
        footer += (
            "cold: before every read, all maps are closed, the files' pages dropped by "
            "posix_fadvise(DONTNEED) after fsync, and mincore finds none left; a memory map reads "
            f"{machine['kernel_read_ahead_kb']} kB around a page here, unless MADV_RANDOM is set; "
            "for warm reads the pages were read anew, in pages of 2 MB where the kernel can"
        )
    return Group(Text(title, style="bold"), Text(), table, Text(), Text(footer, style="dim"))

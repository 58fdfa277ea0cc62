"""The table shown at the end of a run, at most 80 columns wide."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}
STAGES = {
    "first_stage": "first stage",
    "reranked": "reranked",
    "ceiling": "ceiling",
    "gain": "gain",
}
TIES_WORTH_TELLING = 0.01


def metrics_table(metrics: Mapping[str, Any]) -> Group:
    """First stage, reranked, ceiling and gain with 95% intervals, from a run's metrics.json.

    Below it are the costs and what was measured. A gain is green if its whole interval is above
    zero, red if it is below. What metrics.json lacks is left out.
    """
    directions = [direction for direction in DIRECTIONS if direction in metrics]
    cutoffs = list(metrics[directions[0]]["first_stage"]) if directions else []
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("percent", style="dim", no_wrap=True)
    for cutoff in cutoffs:
        table.add_column(Text(cutoff.replace("recall@", " R@")), no_wrap=True)
    for direction in directions:
        if table.rows:
            table.add_row()
        table.add_row(Text(DIRECTIONS[direction], style="bold not dim"))
        for stage, name in STAGES.items():
            cells = (_cell(stage, metrics[direction][stage][cutoff]) for cutoff in cutoffs)
            style = "bold not dim" if stage == "reranked" else ""
            table.add_row(Text(f"  {name}", style=style), *cells)
    return Group(_title(metrics), Text(), table, Text(), _footer(metrics))


def _cell(stage: str, estimate: Mapping[str, float]) -> Text:
    """The value and its interval in at most twenty characters."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if stage != "gain":
        text = Text(f"{value:5.1f}", style="bold" if stage == "reranked" else "")
        return text.append(f" [{low:.1f}, {high:.1f}]", style="dim not bold")
    colour = "green" if low > 0 else "red" if high < 0 else "yellow"
    text = Text(f"{value:+5.1f}", style=f"bold {colour}")
    return text.append(f" [{low:+.1f}, {high:+.1f}]", style="dim not bold")


def _title(metrics: Mapping[str, Any]) -> Text:
    """What was measured: data set, split, sizes, seed."""
    parts = [" ".join(str(metrics[key]) for key in ("dataset", "split") if key in metrics)]
    for key, noun in (("num_images", "images"), ("num_captions", "captions")):
        if key in metrics:
            parts.append(f"{metrics[key]:,} {noun}")
    if "seed" in metrics:
        parts.append(f"seed {metrics['seed']}")
    return Text(" · ".join(part for part in parts if part), style="bold")


def _footer(metrics: Mapping[str, Any]) -> Text:
    """The costs, and how it was scored."""
    cost = []
    if "storage_bytes_per_image" in metrics:
        cost.append(f"{metrics['storage_bytes_per_image']:,} bytes per image")
    if "scored_pairs_per_second" in metrics:
        where = ", ".join(str(metrics[key]) for key in ("device", "dtype") if metrics.get(key))
        speed = f"{metrics['scored_pairs_per_second']:,.0f} pairs/s"
        cost.append(f"{speed} ({where})" if where else speed)
    lines = [Text(" · ".join(cost), style="bold")] if cost else []
    kind = [f"score: {metrics['score']}"] if "score" in metrics else []
    if metrics.get("label"):
        kind.append(f"trained on {metrics['label']}")
    if kind:
        lines.append(Text(" · ".join(kind)))
    pools = metrics.get("num_candidates", {})
    sizes = " and ".join(dict.fromkeys(str(pool) for pool in pools.values()))
    of_pool = f"ceiling: recall of the {sizes} candidates · " if sizes else ""
    lines.append(Text(f"{of_pool}brackets: 95% bootstrap over images", style="dim"))
    for direction, share in metrics.get("share_of_ties", {}).items():
        if share > TIES_WORTH_TELLING:
            lines.append(
                Text(
                    f"{100 * share:.0f}% of the {DIRECTIONS[direction]} scores tie exactly; "
                    "ties count against the reranker.",
                    style="yellow",
                )
            )
    return Text("\n").join(lines)

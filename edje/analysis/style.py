"""The style that all figures share: a small palette, thin lines, no decoration."""

from collections.abc import Iterable
from typing import Any

from matplotlib.font_manager import get_font_names

INK = "#20262e"
QUIET = "#6b7683"
RULE = "#d9dee4"
BEFORE = "#a9b4c0"  # the first stage
AFTER = "#1f6f8b"  # the reranker
GOOD = "#2c8c5a"
BAD = "#b5482f"
TRUE = "#eda813"  # the frame of the image that the caption describes

# For captions in writings that matplotlib's own font lacks; systems have some of them.
OF_MORE_WRITINGS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "PingFang SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Hiragino Sans", "Apple SD Gothic Neo",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari",
    "Noto Sans Thai",
)  # fmt: skip


def families(installed: Iterable[str]) -> list[str]:
    """Fonts for each glyph to be looked up in, in this order: the usual one, then those above."""
    there = set(installed)
    return ["sans-serif", *(name for name in OF_MORE_WRITINGS if name in there)]


RC: Any = {  # matplotlib types each key separately, and differently in each version
    "font.family": families(get_font_names()),
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a caption may hold a dollar sign
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "legend.frameon": False,
}

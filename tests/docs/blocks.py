"""The blocks of code of the documents, and the commands in those of a shell."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)``` *$", re.MULTILINE
)
PLACE = re.compile(r"<[^<>]*>")  # what a user puts something of his own into


@dataclass(frozen=True)
class Block:
    """A block: in which document, on which line, and what it is."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    name = path.relative_to(ROOT).as_posix()
    found = [
        Block(name, text.count("\n", 0, one.start()) + 1, one["language"].strip(), one["text"])
        for one in FENCE.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall("^ *```", text, re.MULTILINE)), f"{name}: a fence"
    return found


BLOCKS = [block for path in DOCUMENTS for block in blocks_of(path)]


def commands(text: str) -> list[list[str]]:
    """The words of each command, without comments; places for a user's own are filled."""
    joined = re.sub(r"\\\n\s*", " ", PLACE.sub("there", text)).replace("…", "")
    lines = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in joined.splitlines()]
    return [shlex.split(line) for line in lines if line]

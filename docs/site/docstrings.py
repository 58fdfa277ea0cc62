"""Docstrings as Markdown, plain text with names in backticks; and shapes within types."""

import re

from griffe import (
    Docstring,
    DocstringSectionKind,
    Expr,
    ExprSubscript,
    ExprTuple,
    Extension,
    Function,
    Object,
)

CODE = re.compile(r"(`+[^`]+`+)")
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)
FLAG = re.compile(r" +# doctest: .*")
MARKUP = re.compile(r"[\\*\[\]]|(?<!\w)_|_(?!\w)")
ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord("|"): "&#124;"}


class PlainDocstrings(Extension):
    """Lets nothing in a docstring but backticks, lists and examples become markup."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrite a docstring before it is parsed, and the types of what it describes."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
        parameters = obj.parameters if isinstance(obj, Function) else []
        for one in (obj, *parameters):
            quote_shapes(getattr(one, "annotation", None))


def quote_shapes(annotation: object) -> None:
    """Write the axes of a tensor as text, also where there is one, which reads like a name."""
    if not isinstance(annotation, Expr):
        return
    if (
        isinstance(annotation, ExprSubscript)
        and isinstance(annotation.slice, ExprTuple)
        and getattr(annotation.left, "canonical_path", "").startswith("jaxtyping.")
    ):
        kind, *axes = annotation.slice.elements
        texts = [str(axis).strip("'\"") for axis in axes]  # a dataclass shares them
        annotation.slice.elements = [kind, *(f'"{text}"' for text in texts)]
    for part in annotation:
        if part is not annotation:  # as a name's only part is
            quote_shapes(part)


def as_markdown(docstring: str) -> str:
    """A docstring whose examples are code without prompts and whose other lines are plain text."""
    parts, end = [], 0
    for example in EXAMPLE.finditer(docstring):
        lines = FLAG.sub("", example[0]).splitlines()
        code = [line[4:] if line.startswith((">>>", "...")) else f"# {line}" for line in lines]
        parts.append(escaped(docstring[end : example.start()]))
        parts.append("\n".join(["```python", *code, "```"]))
        end = example.end()
    return "".join([*parts, escaped(docstring[end:])])


def escaped(text: str) -> str:
    """A text of which nothing but what is in backticks is markup, also in a cell of a table."""
    parts = CODE.split(text)
    parts[::2] = [MARKUP.sub(r"\\\g<0>", plain).translate(ENTITIES) for plain in parts[::2]]
    return "".join(parts)


def description_and_arguments(docstring: str) -> tuple[str, dict[str, str]]:
    """What is said before the arguments, as Markdown, and the text of each argument."""
    description, arguments = "", {}
    for section in Docstring(docstring).parse("google", warnings=False):
        if section.kind is DocstringSectionKind.text:
            description = description or as_markdown(section.value)
        elif section.kind is DocstringSectionKind.parameters:
            arguments |= {one.name: " ".join(one.description.split()) for one in section.value}
    return description, arguments

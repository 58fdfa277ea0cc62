"""The pages of the configuration, made from conf/ and from the constructors that it names."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from docstrings import escaped
from hydra import initialize_config_dir
from option_facts import (
    CONF,
    Component,
    Option,
    comment_of,
    description,
    files_of,
    help_of,
    meanings,
    option_of,
    parameters,
    root_values,
)
from pymdownx.slugs import slugify

from edje.config.locations import register_resolvers
from edje.config.parts import mappings
from edje.config.root import RootConfig
from edje.config.signatures import UNREAD
from edje.config.value_types import describe, yaml_type

anchor_of = slugify(case="lower")  # the address of a heading, as repository browsers give it
LISTED = ("experiment", "paper", "sweep")  # they hold values for other groups: a line each
SWEEPER = {"hydra/sweeper": "what chooses the jobs of a sweep: Hydra's own, or a study of Optuna"}
TABLE = "| key | type | default | meaning |\n|---|---|---|---|\n"
BELOW = "below"  # said of a value that has a table of its own
INTRODUCTION = """# Configuration

A run is composed of a task, an option of each group, and root keys. A group is a folder of `conf/`,
an option is a file in it: `group=option` chooses one, `group.key=value` sets a key of it, and
`key=value` a root key. These pages are made from the option files and from the constructors that
they name.

"""


def group_pages() -> dict[str, str]:
    """The address of the page of each group; config/index.md is that of all of them."""
    names = {"index": "image_index", "hydra/sweeper": "sweeper"}
    return {group: f"config/{names.get(group, group)}.md" for group in _groups()}


def pages() -> dict[str, str]:
    """Markdown by address."""
    register_resolvers()
    made = {"config/index.md": index_page()}
    with initialize_config_dir(str(CONF), version_base="1.3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of option files that are composed by themselves
        for group, address in group_pages().items():
            options = listed(group) if group in LISTED else sections(group)
            made[address] = head_of(group) + "".join(options)
    return made


def _groups() -> dict[str, str]:
    return help_of("Groups (") | SWEEPER


def index_page() -> str:
    """Tasks, groups and root keys."""
    root, hints = root_values(), get_type_hints(RootConfig, include_extras=True)
    tasks = [f"| `{name}` | {escaped(text)} |\n" for name, text in help_of("Tasks (").items()]
    places = {group: Path(address).name for group, address in group_pages().items()}
    groups = [
        f"| [`{name}`]({places[name]}) | {escaped(text)} | {chosen_of(name)} "
        f"| {len(files_of(name))} |\n"
        for name, text in _groups().items()
    ]
    keys = [
        row(name, describe(yaml_type(hints[name])), root[name], text)
        for name, text in help_of("Root keys (").items()
    ]
    return "".join(
        [
            INTRODUCTION,
            "## Tasks\n\n| `task=` | what it does |\n|---|---|\n",
            *tasks,
            "\n## Groups\n\n| group | what it chooses | default | options |\n|---|---|---|---|\n",
            *groups,
            f"\n## Root keys\n\n{TABLE}",
            *keys,
        ]
    )


def chosen_of(group: str) -> str:
    """The option, or options, of a group that conf/run.yaml takes."""
    chosen = root_values()["defaults"].get(group)
    return "" if chosen is None else spelled(chosen)


def head_of(group: str) -> str:
    """Title, what the group chooses, and how."""
    takes_several = chosen_of(group).startswith("`[")
    command = f"{group}=" + ("[<option>,…]" if takes_several else "<option>")
    command = f"-m +{command}" if group == "sweep" else command
    default = f" The default is {chosen_of(group)}." if chosen_of(group) else ""
    return f"# `{group}`\n\n{sentence(_groups()[group])} Chosen by `{command}`.{default}\n\n"


def listed(group: str) -> Iterator[str]:
    """Each option with the first sentence of its file."""
    yield "| option | what it is |\n|---|---|\n"
    for name, path in files_of(group).items():
        first = re.split(r"(?<=\w[.)]) (?=[A-Z])|: *$", comment_of(path))[0]
        yield f"| `{group}={name}` | {escaped(first.rstrip('.:'))} |\n"


def sections(group: str) -> Iterator[str]:
    """Each option with tables of the keys of its components."""
    options = {name: option_of(group, name, path) for name, path in files_of(group).items()}
    comments = comments_of(options.values())
    seen: dict[str, tuple[str, Component]] = {}
    for name, option in options.items():
        yield f"## `{name}`\n\n"
        if option.comment:
            yield f"{sentence(option.comment)}\n\n"
        for component in option.components:
            title = f"{name}: {component.within}" if component.within else name
            if component.within:
                yield f"### `{title}`\n\n"
            own = own_comments(option, component)
            before = seen.setdefault(component.target, (title, component))
            yield from table(component, before, comments | own)


def own_comments(option: Option, component: Component) -> dict[tuple[str, str], str]:
    """What an option's file says behind the keys of a component, by target and key."""
    return {
        (component.target, name): text
        for name in component.values
        if (text := option.comments.get(f"{component.within}.{name}".lstrip(".")))
    }


def comments_of(options: Iterable[Option]) -> dict[tuple[str, str], str]:
    """The same of all options of a group; the first that says something counts."""
    found: dict[tuple[str, str], str] = {}
    for option in options:
        for component in option.components:
            found = own_comments(option, component) | found
    return found


def table(
    component: Component,
    before: tuple[str, Component],
    comments: Mapping[tuple[str, str], str],
) -> Iterator[str]:
    """A component's keys: all where its target comes first, then those that differ from there."""
    place, first = before
    values = component.values
    if first is component:
        yield f"`{component.target}`\n\n"
        if told := description(component.target):
            yield f"{told}\n\n"
    else:
        values = {k: v for k, v in values.items() if first.values.get(k, UNREAD) != v}
        yield f"As [`{place}`](#{anchor_of(place, '-')})" + (", with\n\n" if values else ".\n\n")
    if values:
        yield TABLE
    types, told_of = parameters(component), meanings(component.target)
    for name, value in values.items():
        said = told_of.get(name) or comments.get((component.target, name), "")
        said = said if ". " in said else said.removesuffix(".")
        known = types[name].annotation if name in types else UNREAD
        kind = "" if known in (UNREAD, Any) else describe(known)
        if kind == "null" or spelled(value) == BELOW:
            kind = "component" if value else "component or null"
        yield row(f"{component.key}.{name}", kind, value, said)
    yield "\n"


def row(key: str, kind: str, value: Any, meaning: str) -> str:
    """A line of a table of keys."""
    return f"| `{key}` | {escaped(kind)} | {spelled(value)} | {escaped(meaning)} |\n"


def spelled(value: Any) -> str:
    """A value as the command line takes it."""
    if value == "???":
        return "to be given"
    if value is None:
        return "`null`"
    if any("_target_" in inner for _, inner in mappings("", value)):
        return BELOW
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return "`" + text.removesuffix("...\n").strip() + "`"


def sentence(text: str) -> str:
    """A comment with a capital letter, unless it begins with a symbol, and a full stop."""
    first = text[:1] if re.match("[b-z] ", text) else text[:1].upper()
    return escaped(first + text[1:]) + ("" if text.endswith((".", ":")) else ".")

"""Command-line overrides: which ones choose a group's option, and which set a value."""

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from edje.errors import EdjeError
from edje.renames import advice

VALUE = re.compile(r"^(?P<key>[A-Za-z_][\w\-]*(\.[\w\-]+)*)=")
HOME = re.compile(r"^(['\"]?)~(?=/|['\"]?$)")
MEANT = frozenset(",=[]{}()'\"")  # characters with a meaning of their own in a value
MULTIRUN = {"-m", "--multirun"}
NONE = "none.yaml"  # the option of a group that may be left out
PATHS = (  # which an unset variable of the shell leaves empty
    *("checkpoint", "resume", "store", "cache_dir", "teacher", "miner"),
    *("data.root", "start.path"),
)
KEY = re.compile(r"^(?P<prefix>\+\+|\+|~)?(?P<key>[^=@:]+)")


def key_of(override: str) -> str:
    """The key that an override sets, without its prefix."""
    found = KEY.match(override)
    return found["key"] if found else override


def refuse_former_names(arguments: list[str]) -> None:
    """Refuse keys and groups of earlier versions, with their present names.

    Raises:
        EdjeError: lists every former name, and what to write instead.
    """
    given = ((key_of(a), a.partition("=")[2] or None) for a in arguments if a[:1] != "-")
    if told := [said for key, value in given if (said := advice(key, value))]:
        raise EdjeError(" ".join(told))


def refuse_empty_paths(arguments: list[str]) -> None:
    """Refuse a path without text, which would mean the current folder.

    Raises:
        EdjeError: names the key.
    """
    if empty := [key for key in PATHS if value_given(arguments, key) == ""]:
        raise EdjeError(
            f"{empty[0]}= has no value: expected a path. Give it, or leave {empty[0]} out; the "
            f"current folder is a dot: {empty[0]}=."
        )


def is_group(key: str, conf: Path) -> bool:
    """Whether a key names a folder of options."""
    return (conf / key).is_dir()


def forced(arguments: list[str], conf: Path) -> list[str]:
    """Arguments with every value override made unconditional (`key=` becomes `++key=`).

    Hydra would refuse a key that the chosen YAML does not show, even if the constructor takes
    it. So every key is let in. The check against the signatures then judges all keys, together
    with the rest of the tree.
    """
    result = []
    for argument in arguments:
        found = VALUE.match(argument)
        if found and found[0] + "null" == argument and (conf / found["key"] / NONE).is_file():
            argument = f"{found[0]}none"  # Hydra takes no null for a group's option
        plain = found and found["key"].split(".")[0] != "hydra" and not is_group(found["key"], conf)
        result.append(f"++{argument}" if plain else argument)
    return result


def value_given(arguments: list[str], key: str) -> str | None:
    """The last value given to a key on the command line, as text."""
    values = [a.partition("=")[2] for a in arguments if "=" in a and key_of(a) == key]
    return values[-1].strip("'\"") if values else None


def quoted(text: str) -> str:
    """A text as an override's value, quoted for any characters."""
    return "'" + text.replace("'", "\\'") + "'"


def readable(arguments: list[str]) -> list[str]:
    """Arguments in a form Hydra can read: `~` becomes the home folder, odd characters are quoted.

    Outside of quotes, its grammar has no `#`, `&` or letters beyond ASCII. Where a character has
    a meaning in the grammar, the argument is not quoted by guess.

    Raises:
        EdjeError: a value has such a character where it can't be read; shows how to quote it.
    """
    sweep = bool(MULTIRUN & set(arguments))
    return [readable_override(argument, sweep) for argument in arguments]


def readable_override(argument: str, sweep: bool) -> str:
    """One argument; in a sweep, commas separate its values."""
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    several = sweep and not set(value) & (MEANT - {","})
    parts = value.split(",") if several else [value]
    for number, part in enumerate(parts):
        part = HOME.sub(lambda found: found[1] + str(Path.home()), part)
        if not parses(f"{key}={part}") and parses(f"{key}={quoted(part)}"):
            if meant := next((character for character in part if character in MEANT), None):
                text = value.replace('"', '\\"')
                shown = shlex.quote(f'{key.removeprefix("++")}="{text}"')
                raise EdjeError(
                    f"Can't read the override {argument.removeprefix('++')!r}: {meant} has a "
                    f"special meaning there. Put the value in quotes of its own: {shown}."
                )
            part = quoted(part)
        parts[number] = part
    return f"{key}={','.join(parts)}"


def parses(argument: str) -> bool:
    """Whether Hydra's grammar accepts an override."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True

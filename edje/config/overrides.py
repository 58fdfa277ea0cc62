"""Command-line overrides: which choose a group's option, which set a value."""

import re
from pathlib import Path

VALUE = re.compile(r"^(?P<key>[A-Za-z_][\w\-]*(\.[\w\-]+)*)=")
NONE = "none.yaml"  # the option of a group that may be left out
KEY = re.compile(r"^(?P<prefix>\+\+|\+|~)?(?P<key>[^=@:]+)")


def key_of(override: str) -> str:
    """The key that an override sets, without its prefix."""
    found = KEY.match(override)
    return found["key"] if found else override


def is_group(key: str, conf: Path) -> bool:
    """Whether a key names a folder of options."""
    return (conf / key).is_dir()


def forced(arguments: list[str], conf: Path) -> list[str]:
    """Arguments with every value override made unconditional (`key=` becomes `++key=`).

    Hydra would refuse a key that the chosen YAML does not show, also one that the constructor
    takes. So every key is let in, and the check against the signatures judges all of them,
    together with the rest of the tree.
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
    """A text as an override's value, whatever characters it has."""
    return "'" + text.replace("'", "\\'") + "'"

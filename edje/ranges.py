"""Number types with a range, for constructors, and checks of arguments.

The configuration check enforces the types.
"""

import os
from numbers import Integral, Real
from typing import Annotated, Any

from annotated_types import Ge, Gt

from edje.errors import EdjeError

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]


def check_count(name: str, given: Any, least: int) -> None:
    """Refuse what isn't a whole number of at least `least`.

    Raises:
        EdjeError: the message names the argument.
    """
    if not isinstance(given, Integral) or given < least:
        raise EdjeError(f"{name}={given!r}: expected a whole number of {least} or more.")


def check_probability(name: str, given: Any) -> None:
    """Refuse what isn't a number from 0 to 1.

    Raises:
        EdjeError: the message names the argument.
    """
    if not isinstance(given, Real) or not 0 <= float(given) <= 1:
        raise EdjeError(f"{name}={given!r}: expected a number from 0 to 1. Write 90% as 0.9.")


def check_path(name: str, given: Any) -> None:
    """Refuse what isn't a path, and the empty text, which would mean the current folder.

    Raises:
        EdjeError: the message names the argument.
    """
    if not isinstance(given, str | os.PathLike) or given == "":
        raise EdjeError(f"{name}={given!r}: expected a path. The current folder is a dot: '.'.")

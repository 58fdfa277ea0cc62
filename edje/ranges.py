"""Number types with a range, for constructors; the configuration check enforces them."""

from typing import Annotated

from annotated_types import Ge, Gt

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]

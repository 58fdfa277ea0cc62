"""Numbers with a range, as constructors ask for them: the check of a configuration holds them."""

from typing import Annotated

from annotated_types import Ge, Gt

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]

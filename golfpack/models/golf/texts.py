"""Lists of numbers that options of a golf model hold as text."""

import math

from golfpack.errors import UsageError


def number_list(text: str, name: str) -> tuple[float, ...]:
    """Numbers written as "0.1,0.25". Empty text gives ().

    Raises:
        UsageError: anything else; `name` is the option that holds the text.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"model option {name} is {text!r}, not a list of numbers", "write them as 0.1,0.25"
        )
    return numbers

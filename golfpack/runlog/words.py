"""How run reports write numbers: 5,539; 3.05e-6; 4,726.57; ~2,570 ms; "-" where there is none."""

import math

NONE = "-"


def known(value: float | None) -> bool:
    """Whether there is a number to write."""
    return value is not None and math.isfinite(value)


def count(value: float | None) -> str:
    """A whole number, with thousands set off."""
    return NONE if value is None or not known(value) else f"{value:,.0f}"


def loss(value: float | None) -> str:
    """Nats per token, to three decimals."""
    return NONE if value is None or not known(value) else f"{value:.3f}"


def norm(value: float | None) -> str:
    """A norm: two decimals, and three digits below 1."""
    if value is None or not known(value):
        return NONE
    if value == 0 or abs(value) >= 1:
        return f"{value:,.2f}"
    return f"{value:.3g}" if abs(value) < 1e-4 else f"{value:#.3g}"


def exponent(value: float | None) -> str:
    """A rate, as 3.05e-6: two decimals, no padding of the exponent."""
    if value is None or not known(value):
        return NONE
    mantissa, power = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(power)}"


def setting(value: object) -> str:
    """A value of a configuration: 3e-5, 0.1, 50,000, yes, none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _float(value)
    return str(value)


def _float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.1f}"
    if not math.isfinite(value) or abs(value) >= 1e-3:
        return repr(value)
    mantissa, _, power = f"{value:.15g}".partition("e")
    if not power:
        mantissa, _, power = f"{value:.14e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(power)}"


def milliseconds(value: float | None) -> str:
    """A time in ms: whole from 100, one decimal from 10, two below."""
    if value is None or not known(value):
        return NONE
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f} ms"


def share(value: float | None) -> str:
    """A share as a percentage, to one decimal; what would show as 0.0% says how small it is."""
    if value is None or not known(value):
        return NONE
    percent = 100.0 * value
    if 0 < percent < 0.01:
        return "<0.01%"
    return f"{percent:.2f}%" if 0 < percent < 0.1 else f"{percent:.1f}%"


def duration(seconds: float | None) -> str:
    """A stretch of time in its two largest units."""
    if seconds is None or not known(seconds):
        return NONE
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{_units(hours, 'hour')} {_units(minutes, 'minute')}"
    if minutes:
        return f"{_units(minutes, 'minute')} {_units(whole % 60, 'second')}"
    return _units(whole, "second")


def _units(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def millions(parameters: int) -> str:
    """A number of weights, exact and in short: 6,838,784 (6.84M)."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters:,} ({parameters / size:.2f}{unit})"
    return f"{parameters:,}"

"""Times as logs write them."""

from datetime import UTC, datetime


def parse_time(text: object) -> datetime | None:
    """An ISO 8601 time, or None where `text` is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def seconds_between(first: object, last: object) -> float | None:
    """Seconds from one time to another, or None where either is unknown."""
    begin, end = parse_time(first), parse_time(last)
    return None if begin is None or end is None else (end - begin).total_seconds()

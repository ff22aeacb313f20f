"""Text of files, made safe to print."""

import re

# Control characters, all but tab and newline; what turns the direction of writing; halves of
# characters, which a path that is not UTF-8 holds and no output takes.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""The text with what a terminal would obey spelt out: "\x1b[31m" for a red that a name sets.

    A JSON document stays one with the same values: what it may hold raw is spelt as JSON spells it.
    """
    return _UNSAFE.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"

"""The document of `golfpack list`: what can be named, each with a line on what it is."""

from dataclasses import dataclass

from golfpack.base.documents import SCHEMA_VERSION


@dataclass(frozen=True)
class Named:
    """Something that options and recipes name.

    Attributes:
        name: as it is typed.
        about: one sentence on what it is.
    """

    name: str
    about: str


@dataclass(frozen=True)
class ListReport:
    """What `golfpack list KIND` found.

    Attributes:
        kind: "codecs", "recipes", ...; "kinds" where none was asked for.
        used: where such a name goes.
        entries: everything of the kind.
    """

    kind: str
    used: str
    entries: list[Named]
    schema_version: int = SCHEMA_VERSION

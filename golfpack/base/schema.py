"""JSON Schemas (draft 2020-12) of reports, and their keys as tables, from the dataclasses themselves."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
# What the same key means in every report whose docstring does not say otherwise.
_EVERYWHERE = {
    "checkpoint": "path of the float checkpoint",
    "checkpoint_sha256": "of its bytes",
    "family": "the model family",
    "config": "the model's options, complete",
    "assumed": "those of them that neither shapes nor the user told",
    "parameters": "weights of the model, tied ones once",
    "recipe": "name of the recipe",
    "settings": "what `--set` changed",
    "seed": "of everything random",
    "threads": "of the run; the result does not depend on it",
    "tokenizer": "path of the SentencePiece model",
    "tokens": "path or glob of the token shards",
    "tokens_sha256": "of the token ids as little-endian uint16, or uint32 where one is beyond 65,535",
    "notes": "what was renamed, split or dropped when a file was read",
    "warnings": "what fell short of what was asked; `--strict` makes them errors",
    "argv": "the command line",
    "versions": "of what the figures depend on besides the inputs",
    "schema_version": "of the document; keys may be added without a new one",
}
# "name, other: what it is", at the indentation of a docstring's section.
_ATTRIBUTE = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a report dataclass, or of a list of one.

    Objects have the dataclass's keys and no others; descriptions are those of its docstring.
    """
    definitions: dict[str, Any] = {}
    root = _schema(kind, definitions)
    if is_dataclass(kind):  # the report itself stands at the top, not behind a reference
        assert isinstance(kind, type)
        root = definitions.pop(kind.__name__)
    found = {"$schema": DRAFT, **root}
    return found | ({"$defs": definitions} if definitions else {})


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return {}
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    if kind is Literal:
        return {"enum": list(args)}
    if kind in (Union, UnionType):
        return {"anyOf": [_schema(a, definitions) for a in args]}
    if kind is dict or kind is Mapping:
        return {
            "type": "object",
            "additionalProperties": _schema(args[1] if args else Any, definitions),
        }
    if kind in (list, tuple, Sequence):
        return {"type": "array", "items": _schema(args[0] if args else Any, definitions)}
    assert is_dataclass(kind), f"no schema for {hint}"
    assert isinstance(kind, type)
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # stands in where the class holds itself
        definitions[kind.__name__] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, told = get_type_hints(kind), descriptions(kind)
    properties = {}
    for name in _names(kind):
        properties[name] = _schema(hints[name], definitions)
        if name in told:
            properties[name]["description"] = told[name]
    return {
        "title": kind.__name__,
        "description": (getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "type": "object",
        "properties": properties,
        "required": list(properties),  # defaults are written, too
        "additionalProperties": False,
    }


def _names(kind: type) -> list[str]:
    assert is_dataclass(kind)
    return [f.name for f in fields(kind)]


def descriptions(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field, in the section "Attributes".

    Of names told together the first has the text, and the others refer to it. Keys that mean the same
    in every report need not be in the docstring.
    """
    found = {name: text for name, text in _EVERYWHERE.items() if name in _names(kind)}
    names: list[str] = []
    section = (getdoc(kind) or "").partition("Attributes:\n")[2]
    for line in section.splitlines():
        match = _ATTRIBUTE.fullmatch(line)
        if match:
            names = match[1].split(", ")
            found |= {names[0]: match[2]} | {n: f"see {names[0]}" for n in names[1:]}
        elif names and line.strip():
            found[names[0]] += " " + line.strip()
        elif not line.strip():
            names = []
    return found


def nested(kind: Any) -> list[type]:
    """The dataclasses that a report is made of, itself first, each once."""
    found: dict[type, None] = {}

    def visit(hint: Any) -> None:
        if is_dataclass(hint) and isinstance(hint, type) and hint not in found:
            found[hint] = None
            for inner in get_type_hints(hint).values():
                visit(inner)
        for inner in get_args(hint):
            visit(inner)

    visit(kind)
    return list(found)


def field_table(kind: type) -> str:
    """A dataclass's keys as a markdown table: key, type, meaning."""
    hints, told = get_type_hints(kind), descriptions(kind)
    lines = ["| key | type | meaning |", "|---|---|---|"]
    for name in _names(kind):
        meaning = re.sub(r"(?<!\.)\.$", "", told.get(name, ""))  # a cell is no sentence
        cells = (f"`{name}`", _type_text(hints[name]), meaning)
        lines.append("| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |")
    return "\n".join(lines)


def _type_text(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_type_text(a) for a in args)
    if kind is Literal:
        return " or ".join(f'"{a}"' for a in args)
    if kind in (list, tuple, Sequence):
        return f"list of {_type_text(args[0])}" if args else "list"
    if kind is dict:
        each = "" if not args or args[1] is Any else f" of {_type_text(args[1])}"
        return f"object{each}"
    return "anything" if kind is Any else _SIMPLE.get(kind, getattr(kind, "__name__", str(kind)))

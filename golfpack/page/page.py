"""The page as one string: data, style and script inside, nothing fetched.

The data come from files of any origin. They reach the page as JSON in which no `<` is left, its script
only ever sets text and never markup, and its Content-Security-Policy lets no other script, style or
address in, should both fail.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION

# In the order in which they run, as one script.
SCRIPTS = ("base", "sections", "treemap", "charts", "details", "table", "main")
# Bytes of a file within which a page tells by its title what it is, whatever the title's length.
PAGE_START = 8192
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


@dataclass(frozen=True)
class PageReport:
    """What `golfpack report` wrote.

    Attributes:
        page: path of the page.
        page_bytes: its size.
        replaced: whether a file of this name was there before.
        report: the build report that went into it, if any.
        evaluation: the evaluation report, if any.
        sweep: the sweep's report, if any.
        artifact_sha256: of the artifact; None for a build that failed.
        missing: what the page cannot show, and what would let it.
    """

    page: str
    page_bytes: int
    replaced: bool
    report: str | None
    evaluation: str | None
    sweep: str | None
    artifact_sha256: str | None
    missing: list[str]
    schema_version: int = SCHEMA_VERSION


def page_html(data: Mapping[str, Any]) -> str:
    """The whole page of `page_data`. Equal data give equal bytes."""
    style = _resource("page.css")
    script = "\n".join(['"use strict";', *(_resource(f"{name}.js") for name in SCRIPTS)])
    parts = {
        # A file name may hold bytes that are no text.
        "title": html.escape(str(data["title"]).encode("utf-8", "replace").decode()),
        "csp": html.escape(_policy(style, script)),
        "style": style,
        "script": script,
        "data": embedded(data),
    }
    # In one go, so that nothing inside the data is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], _resource("page.html"))


def is_page(start: bytes) -> bool:
    """Whether a file that starts like this is a page of ours."""
    return b" - golfpack report</title>" in start[:PAGE_START]


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that is safe between `<script>` tags: no character in it means anything in HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda m: _ESCAPES[m[0]], text)


def _policy(style: str, script: str) -> str:
    """Nothing but this style, this script and the inlined icon."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return files("golfpack.page").joinpath(name).read_text(encoding="utf-8")

"""Prose that people add to a run report: a markdown file with a `## Section` for each section."""

import difflib
from pathlib import Path

from golfpack.errors import UsageError

# Sections of a report, in its order; those that hold nothing but notes are marked.
SECTIONS = (
    "Overview",
    "Model Configuration",
    "Training Configuration",
    "Infrastructure",
    "Training Data",
    "Key Fixes Applied This Run",
    "Loss Curve",
    "Evaluation Results",
    "Gradient Norm Analysis",
    "Per-Step Timing Breakdown (typical)",
    "Inference Samples",
    "Sample Quality Progression",
    "Diagnostic Notes",
)
PROSE = frozenset({"Key Fixes Applied This Run", "Sample Quality Progression", "Diagnostic Notes"})


def read_notes(path: Path) -> dict[str, str]:
    """Prose by section. Headings may be shortened to their first words: `## Key Fixes`.

    Raises:
        UsageError: no such file, text before the first section, or an unknown or repeated section.
    """
    if not path.is_file():
        raise UsageError(f"there is no file of notes {path}", "write one with ## sections")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    found: dict[str, list[str]] = {}
    body: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            body = found.setdefault(_section(line[3:].strip(), path, number, found), [])
        elif body is not None:
            body.append(line)
        elif line.strip() and not line.startswith("# "):
            raise UsageError(
                f"{path}, line {number}: text before the first section",
                "put it below a heading such as ## Diagnostic Notes",
            )
    notes = {section: "\n".join(lines).strip() for section, lines in found.items()}
    return {section: prose for section, prose in notes.items() if prose}


def _section(title: str, path: Path, number: int, found: dict[str, list[str]]) -> str:
    matches = [s for s in SECTIONS if title and s.lower().startswith(title.lower())]
    if len(matches) != 1:
        near = difflib.get_close_matches(title, SECTIONS, n=1)
        raise UsageError(
            f"{path}, line {number}: a report has no section {title!r}",
            f"did you mean {near[0]!r}?" if near else f"it has {', '.join(SECTIONS)}",
        )
    if matches[0] in found:
        raise UsageError(f"{path}, line {number}: a second {matches[0]!r}", "join the two")
    return matches[0]

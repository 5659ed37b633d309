"""What the README says, for the tests that follow it."""

from __future__ import annotations

import re

from conftest import ROOT


def section(title: str) -> str:
    """Return the text under a heading of the README, up to the next of its level.

    Raises:
        ValueError: There is no such heading; says what there is.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.M))
    if title not in parts:
        raise ValueError(f"the README has no section {title!r}; it has {list(parts)}")
    return parts[title]


def points(title: str) -> list[str]:
    """Return the points of the list in a section, each on one line."""
    items = re.split(r"^- ", section(title), flags=re.M)[1:]
    return [" ".join(item.split()) for item in items]


def point(title: str, beginning: str) -> str:
    """Return the one point of a section that begins like this."""
    found = [each for each in points(title) if each.startswith(beginning)]
    if len(found) != 1:
        raise ValueError(f"expected one point {beginning!r}, got {points(title)}")
    return found[0]


def settings_in(text: str) -> list[str]:
    """Return the names in capitals that stand between backticks."""
    return re.findall(r"`([A-Z][A-Z_]+)(?:`| = )", text)


def advised_settings() -> list[str]:
    """Return the settings that the README says to lower for a rehearsal."""
    advice = point("Change one part and run it again", "For a rehearsal")
    return settings_in(advice.split("(")[0])

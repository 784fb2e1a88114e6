"""`UserError`, a user's mistake: one line with what was found, what was expected, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input (path, image, label, config, weights, number).

    The command lines print its message and exit with status 1.
    """


def did_you_mean(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, else the list of known names.

    Args:
        others: known names that are too many to be listed.
    """
    names = sorted({str(item) for item in known})
    lower = {item.lower(): item for item in [*map(str, others), *names]}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1)  # whatever the case
    if close:
        return f" Did you mean '{lower[close[0]]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def printable(text: object) -> str:
    """Return a text for a terminal: names of files in it cannot hold escape codes."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in str(text)
    )


def one_line(text: object) -> str:
    """Return a message as one printable line."""
    return printable(" ".join(str(text).split()))

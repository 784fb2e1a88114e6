"""`UserError`, a user's mistake: one line with what was found, what was expected, the remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

logger = logging.getLogger(__name__)

MAX_MISTAKES = 50  # shown at once


class UserError(ValueError):
    """A mistake in the user's input (path, image, label, config, weights, number).

    The command lines print its message and exit with status 1.
    """

    key = ""  # a config's section, where the message alone does not name it


class UserErrors(UserError):
    """Several mistakes, of a line each below their number."""

    def __init__(self, errors: Iterable[UserError], prefix: str = "") -> None:
        self.errors = list(errors)
        named = (f"{error.key}: {error}" if error.key else str(error) for error in self.errors)
        self.mistakes = [" ".join(line.split()) for line in named]
        more = " or more" if len(self.errors) >= MAX_MISTAKES else ""
        first = f"{prefix}{len(self.errors)} mistakes{more}:"
        super().__init__("\n  ".join([first, *self.mistakes]))


class Mistakes:
    """Collects the mistakes that several checks find, to show them all at once.

    Each check runs in a block of its own, `with mistakes:`, which a mistake ends. Only the first
    mistakes are kept: of untrusted input, they are enough.
    """

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def add(self, error: UserError | str) -> None:
        """Keep a mistake, or several."""
        error = UserError(error) if isinstance(error, str) else error
        errors = error.errors if isinstance(error, UserErrors) else [error]
        self._errors += errors[: MAX_MISTAKES - len(self._errors)]

    @property
    def is_full(self) -> bool:
        """Return whether more mistakes would not be kept."""
        return len(self._errors) >= MAX_MISTAKES

    def __enter__(self) -> None:
        """Begin a check."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End a check; keep the mistake that ended it."""
        if isinstance(error, UserError):
            self.add(error)
        return isinstance(error, UserError)

    def raise_all(self) -> None:
        """Raise what was kept, if anything; a single mistake as it was."""
        errors: dict[str, UserError] = {}
        for error in self._errors:
            errors.setdefault(str(error), error)
        if len(errors) > 1:
            raise UserErrors(errors.values())
        for error in errors.values():
            raise error


@contextmanager
def mistakes_in(source: str) -> Iterator[None]:
    """Let the mistakes of a block begin with what they are in, such as a file."""
    try:
        yield
    except UserErrors as error:
        raise UserErrors(error.errors, f"{source}: ") from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


@contextmanager
def only_warned(title: str) -> Iterator[None]:
    """Log a mistake as a warning, `title: mistake`, and go on after the block."""
    try:
        yield
    except UserError as error:
        logger.warning("%s: %s", title, error)


def did_you_mean(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, else the list of known names.

    The closest is the one with the fewest typing errors, whatever the case; or what `name` is the
    beginning of.

    Args:
        others: known names that are too many to be listed.
    """
    names = sorted({str(item) for item in known})
    close = []
    for item in (*names, *sorted(map(str, others))):
        typed, meant = str(name).lower(), item.lower()
        if len(typed) > 2 and meant.startswith(typed):
            errors = int(typed != meant)
        elif 3 * abs(len(typed) - len(meant)) <= len(typed):
            errors = _typing_errors(typed, meant)
        else:
            continue
        if 3 * errors <= len(typed):
            close.append((errors, _typing_errors(str(name), item), item))
    if close:
        return f" Did you mean '{min(close, key=lambda item: item[:2])[2]}'?"
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


def _typing_errors(typed: str, meant: str) -> int:
    """Return how many letters are wrong, missing, too many, or changed places with the next."""
    rows = [list(range(len(meant) + 1))]
    for i, letter in enumerate(typed):
        rows.append([i + 1])
        for j, other in enumerate(meant):
            costs = [rows[i][j] + (letter != other), rows[i][j + 1] + 1, rows[i + 1][j] + 1]
            if i and j and letter == meant[j - 1] and other == typed[i - 1]:
                costs.append(rows[i - 1][j - 1] + 1)
            rows[i + 1].append(min(costs))
    return rows[-1][-1]

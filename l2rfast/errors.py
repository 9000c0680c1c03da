"""The errors and warnings that l2rfast raises on purpose. Each message names the argument and what was expected."""

import re
import warnings

_LONGEST = 1000  # characters of a sentence, of which a file may have given most
# What moves a terminal's cursor, ends a line, or turns the direction of a text.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """An argument, a file or an option that cannot be used. The command line prints it and exits with 2."""

    def __str__(self) -> str:
        return sentence(super().__str__())


class InputWarning(UserWarning):
    """Input that is used, but not all of it, or not as it may have been meant. The command line and reports say it."""


def notice(text: str) -> None:
    """Warn of input, to whoever called the function that calls this."""
    warnings.warn(sentence(text), InputWarning, stacklevel=3)


def sentence(text: str) -> str:
    """One line, whatever a file or a name in it holds: signs that are not seen as Python writes them, and not all of
    what is too long.
    """
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class NotDifferentiableError(NotImplementedError):
    """A derivative was asked for that l2rfast does not have; never a silent zero."""


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run here, or cannot take this input."""

"""The errors and warnings that l2rfast raises on purpose. Each message names the argument and what was expected."""

import warnings


class InputError(ValueError):
    """An argument, a file or an option that cannot be used. The command line prints it and exits with 2."""


class InputWarning(UserWarning):
    """Input that is used, but not all of it, or not as it may have been meant. The command line and reports say it."""


def notice(text: str) -> None:
    """Warn of input, to whoever called the function that calls this."""
    warnings.warn(text, InputWarning, stacklevel=3)


class NotDifferentiableError(NotImplementedError):
    """A derivative was asked for that l2rfast does not have; never a silent zero."""


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run here, or cannot take this input."""

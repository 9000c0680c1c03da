"""The errors that l2rfast raises on purpose. Each message names the argument and what was expected."""


class InputError(ValueError):
    """An argument, a file or an option that cannot be used. The command line prints it and exits with 2."""


class NotDifferentiableError(NotImplementedError):
    """A derivative was asked for that l2rfast does not have; never a silent zero."""


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run here, or cannot take this input."""

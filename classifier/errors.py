"""Errors that speak to the user."""


class UserError(ValueError):
    """A mistake that the user can mend: its text says value, expectation and remedy.

    Attributes:
        exit_code: That of the command which it ends.
    """

    exit_code = 2


class WriteError(OSError, UserError):
    """A file or folder that cannot be written: no space, no permission, no folder."""


class UnfitWeightsError(UserError, RuntimeError):
    """Weights that are not those of the network."""


class DataWorkerError(RuntimeError):
    """A process that reads data died or hung; its text names it and what it was reading."""

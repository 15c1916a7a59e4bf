"""Errors that speak to the user."""


class UserError(ValueError):
    """A mistake that the user can mend: its text says value, expectation and remedy.

    Attributes:
        exit_code: That of the command which it ends.
    """

    exit_code = 2

"""What may go wrong for a reason that a person can mend. The command line prints the message and no traceback."""


class SymbenchError(Exception):
    """Base of the errors that are shown as one message; `exit_status` is what the process returns."""

    exit_status = 1


class UserError(SymbenchError):
    """The input is wrong: a suite, an option, a file that was named."""

    exit_status = 2


class MachineError(SymbenchError):
    """The surroundings are wrong: no permission, no space, no data, somebody else at work."""

    exit_status = 3

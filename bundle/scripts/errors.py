"""The one way by which a mistake of the user ends a command: a sentence, exit code 1, no traceback."""


class UserError(SystemExit):
    """A mistake in the user's input: what was found where, what was expected, what to do.

    A ``SystemExit``, since MONAI wraps every ordinary exception of a config into a traceback.
    """

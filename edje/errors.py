"""The one exception type for mistakes that a user can make and mend."""


class EdjeError(Exception):
    """A mistake that the user can mend: a wrong path, key, split, store or checkpoint.

    The message says what, where, what was expected and what to do next, in one or two lines.
    The command line prints it without a traceback and exits with status 1.
    """

"""The one exception type for errors that a user can cause and fix."""


class EdjeError(Exception):
    """An error that the user can fix: a wrong path, key, split, store or checkpoint.

    The message says what, where, what was expected and what to do next, in one or two lines.
    The command line prints it without a traceback and exits with status 1.
    """


def first_line(error: BaseException, lines: int = 1) -> str:
    """The first line of an error's message, or several as one; its type if it has none.

    >>> first_line(ValueError("too long\\nby 3")), first_line(KeyError())
    ('too long', 'KeyError')
    """
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(said[:lines]) or type(error).__name__


class TrainingInterrupted(Exception):
    """Training stopped on a signal after writing a checkpoint; `resume_command` continues it."""

    def __init__(self, signal_number: int, resume_command: str):
        super().__init__(f"Interrupted; a checkpoint is written. Continue with: {resume_command}")
        self.signal_number = signal_number
        self.resume_command = resume_command
        self.exit_status = 128 + signal_number

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.signal_number, self.resume_command)

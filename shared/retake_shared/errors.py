"""The errors that reach a user: each names what is wrong, where, and the remedy."""


class RetakeError(Exception):
    """A failure with a remedy.

    what: one sentence, what is wrong, with the offending value.
    where: the file, field, frame or object concerned ("" when there is none).
    remedy: what the user can do about it ("" only when nothing can be done).
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        head = f"{where}: {what}" if where else what
        super().__init__(f"{head} {remedy}".strip())


class BadFile(RetakeError):
    """A file cannot be read as what it claims, or was taken, to be."""


class BadShot(RetakeError):
    """Footage, solve and edit do not fit together, or hold values that no shot can have."""


class Cancelled(RetakeError):
    """The user asked for the work to stop."""

    def __init__(self) -> None:
        super().__init__("Cancelled.")

"""What can go wrong with the local stack."""


class StackError(Exception):
    """Something the person at the terminal can read and act on; its text is all that is printed."""

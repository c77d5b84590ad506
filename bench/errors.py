"""What goes wrong when measuring, for people."""


class BenchError(Exception):
    """Nothing can be measured; the text is one line that says what to do."""

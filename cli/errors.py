"""What the command line says instead of a traceback."""

from __future__ import annotations


class Unable(Exception):
    """The command cannot do what was asked. One line for the user: what is wrong, then what to do about it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy

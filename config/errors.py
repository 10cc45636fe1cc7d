"""The one error of this package."""

from __future__ import annotations

from collections.abc import Sequence


class SettingError(Exception):
    """The settings cannot be used. `problems` has one line for each thing that is wrong.

    A line names the variable, the value, where it came from and what was expected, and never
    contains credentials, so it can be printed and logged as it is.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

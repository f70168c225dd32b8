"""The one exception a user sees: what is wrong, why, and how to fix it."""

from __future__ import annotations


class HwsmpqError(Exception):
    """A failure the user can act on.

    Args:
        what: the thing that failed, naming the offending value.
        why: the reason.
        fix: the next step to take.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        lines = [what]
        if why:
            lines.append(f"  why: {why}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class MachineError(HwsmpqError):
    """The machine failed (disk, memory, a locked file): no answer to what was asked, which may be asked again."""


class InfeasibleError(HwsmpqError):
    """No assignment keeps the budgets."""

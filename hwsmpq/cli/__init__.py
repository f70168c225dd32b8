"""The command line: one verb a stage, and ``run`` for all of them."""

from __future__ import annotations

import sys

from hwsmpq.errors import HwsmpqError


def main() -> None:
    """Entry point of the console script. Errors that the user can act on end in one message and a non-zero exit."""
    from hwsmpq.cli.app import app
    from hwsmpq.cli.display import errors

    try:
        app()
    except HwsmpqError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("interrupted: finished work is kept, run the same command again to go on", markup=False)
        sys.exit(130)
    except OSError as error:
        errors.print(f"error: {error}\n  fix: finished work is kept, run again when it is solved", style="red", markup=False)
        sys.exit(2)

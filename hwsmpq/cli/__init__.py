"""The command line: one verb a stage, and ``run`` for all of them."""

from __future__ import annotations

import sys

from hwsmpq.errors import HwsmpqError

INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script. Errors that the user can act on end in one message and a non-zero exit."""
    try:
        from hwsmpq.cli.app import app

        app()
    except HwsmpqError as error:
        _fail(f"error: {error}", 2)
    except OSError as error:
        _fail(f"error: {error}\n  fix: finished work is kept, run again when it is solved", 2)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # Typer turns Ctrl-C into this exit without a word.
        if end.code == INTERRUPTED:
            _interrupted()
        raise


def _interrupted() -> None:
    _fail("interrupted: finished work is kept, run the same command again to go on", INTERRUPTED)


def _fail(message: str, code: int) -> None:
    from hwsmpq.cli.display import errors

    errors.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)

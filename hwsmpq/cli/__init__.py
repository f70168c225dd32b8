"""The command line: one verb a stage, and ``run`` for all of them."""

from __future__ import annotations

import atexit
import gc
import sys

from hwsmpq.cli.streams import one_interrupt, streams_that_bear
from hwsmpq.errors import HwsmpqError

INTERRUPTED = 130
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad allocation")
"""How torch and runtimes say it."""


def main() -> None:
    """Entry point of the console script. Errors that the user can act on end in one message and a non-zero exit."""
    # Modules stay: to look for garbage among torch's took a fourth of the CPU time of calibrating a small network.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        with streams_that_bear(), one_interrupt():
            _main()
    finally:
        gc.enable()


def _main() -> None:
    try:
        from hwsmpq.cli.app import app

        app()
    except HwsmpqError as error:
        _fail(f"error: {error}", 2)
    except OSError as error:
        _fail(f"error: {error}\n  fix: finished work is kept, run again when it is solved", 2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        _fail(
            "error: there is not enough memory\n"
            f"  why: {str(error).partition(chr(10))[0][:300] or 'an allocation failed'}\n"
            "  fix: finished work is kept; lower --memory-mb, --batch or the number of samples, and run again", 2,
        )
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

"""One verb from the words on the command line; errors become one sentence and an exit code."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from stadapter import __version__
from stadapter.cli.verbs import VERBS
from stadapter.interrupt import Terminated

RANK = os.environ.get("RANK", "0")
"""Number of this process among those that torchrun started."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit. Of the processes of torchrun the first one prints results."""
    words = list(sys.argv[1:] if argv is None else argv)
    if RANK == "0":
        sys.exit(run(words))
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        sys.exit(run(words))


def run(argv: list[str]) -> int:
    """Run one verb; returns the exit code: 0 done, or saved after SIGTERM, 1 the run failed, 2 bad
    input, 130 Ctrl-C."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"stadapter {__version__}")
        return 0
    verb = VERBS.get(argv[0])
    if verb is None:
        return _fail(f"unknown verb {argv[0]!r}; known are {', '.join(VERBS)}", 2)
    try:
        return verb(argv[1:])
    except Terminated:
        print("stadapter: asked to end (SIGTERM); go on with --resume", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept", 130)
    except ArgumentError as error:
        return _fail(_plain(str(error)), 2)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(str(error), 2)
    except (RuntimeError, ArithmeticError) as error:
        return _fail(str(error), 1)


def _fail(sentence: str, code: int) -> int:
    of_rank = "" if RANK == "0" else f" (rank {RANK})"
    print(f"stadapter{of_rank}: {sentence}", file=sys.stderr)
    return code


def _plain(message: str) -> str:
    """What the parser says, with its types in plain words."""
    message = " ".join(message.split())
    message = re.sub(r'Parser key "([^"]+)":', r"--\1:", message)
    return re.sub(r"Expected an? typing\.Literal\[([^\]]*)\]\.", r"must be one of \1.", message)


def _overview() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.__doc__}" for name, verb in VERBS.items())
    return (
        "usage: stadapter VERB [...]\n\nTurn an image transformer into a video classifier."
        f"\n\nverbs:\n{verbs}\n\n`stadapter VERB --help` lists the settings of a verb."
    )

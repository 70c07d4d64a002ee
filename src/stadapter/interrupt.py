"""Ctrl-C between steps, never inside one: what is saved then is a whole number of steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], None]]:
    """Hold a Ctrl-C back until the yielded function is called; a second one acts at once.

    Outside the main thread signals cannot be held back, and nothing is changed.

    Raises:
        KeyboardInterrupt: from the yielded function, after a Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, previous)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)

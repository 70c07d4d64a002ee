"""Ctrl-C and SIGTERM between steps, never inside one: what is saved then is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The system asked the process to end (SIGTERM), as before a preemption; all is saved."""


class Signals:
    """What came while signals were held back."""

    def __init__(self) -> None:
        self.kind: type[BaseException] | None = None
        """What to raise for the first signal; None if there was none."""
        self._held = False

    @property
    def pending(self) -> bool:
        """Whether a signal waits to be acted on."""
        return self.kind is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals inside the block are noted, and act at its end; a second Ctrl-C acts at once.

        Raises:
            KeyboardInterrupt: at the end, after a Ctrl-C.
            Terminated: at the end, after SIGTERM.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.act()

    def act(self) -> None:
        """Raise what is pending, if anything is."""
        if self.kind is not None:
            raise self.kind

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        again = self.kind is KeyboardInterrupt and number == signal.SIGINT
        self.kind = self.kind or (KeyboardInterrupt if number == signal.SIGINT else Terminated)
        if again or not self._held:
            self.act()


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Ctrl-C and SIGTERM raise `KeyboardInterrupt` and `Terminated`; see `Signals.held`.

    Outside the main thread signals cannot be caught, and nothing is changed.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, signals.note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""Signals by which the scheduler asks a job to stop; handled at the next training step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from benchmark.errors import MachineError

TIME_LIMIT = signal.SIGUSR2
"""Signal before the time limit, requested by submitit; a site may also send it before preemption."""


class Signals:
    """Records SIGUSR2 and SIGTERM. The handlers only set flags, since a rank may be in a collective operation."""

    def __init__(self) -> None:
        self.time_is_up = False
        self.terminated = False

    @property
    def stop(self) -> bool:
        """Whether training must save and stop."""
        return self.time_is_up or self.terminated

    def listen(self) -> None:
        """Replace the handlers of submitit, which would end the process without saving cells."""
        signal.signal(TIME_LIMIT, self._remember)
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == TIME_LIMIT:
            self.time_is_up = True
        else:
            self.terminated = True


def interrupt_on_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, also where the parent or submitit ignores them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def end_with_parent() -> None:
    """Let this process end when its standard input does, which happens however its parent dies."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def caught_interrupts() -> Iterator[threading.Event]:
    """Event that SIGINT and SIGTERM set in this block, instead of an exception at any line; an ignored one stays so."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: event.set())
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(seconds: int, message: str) -> Iterator[None]:
    """Raise MachineError with `message` if the block takes longer; in the main thread alone."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise MachineError(message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

"""Signals by which the scheduler asks a job to stop; handled at the next training step."""

import signal
from types import FrameType

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

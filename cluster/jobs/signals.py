"""What the scheduler tells a job before it ends it, kept until the next step boundary."""

from __future__ import annotations

import signal
from types import FrameType

TIME_LIMIT = signal.SIGUSR2
"""What submitit asks SLURM to send some time before the limit, and what a site's preemption may send."""


class Signals:
    """Catches SIGUSR2 and SIGTERM; the handlers only remember, since a rank may be in the middle of a collective."""

    def __init__(self) -> None:
        self.time_is_up = False
        self.terminated = False

    @property
    def stop(self) -> bool:
        """Whether training is to save and stop."""
        return self.time_is_up or self.terminated

    def listen(self) -> None:
        """Take the handlers over from submitit, which would save nothing of ours."""
        signal.signal(TIME_LIMIT, self._remember)
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == TIME_LIMIT:
            self.time_is_up = True
        else:
            self.terminated = True

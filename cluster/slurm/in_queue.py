"""Jobs of a store as they are now: for `symbench status`, which asks SLURM once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cluster.slurm import commands as slurm
from cluster.slurm.submissions import Submission, ids_in, notes
from results.store.lease import Holder
from results.store.record import Broken
from results.store.store import Store


@dataclass(frozen=True)
class InQueue:
    """Submissions of a store, and the queue."""

    submissions: Sequence[Submission]
    broken: Sequence[Broken]
    """Notes that cannot be read."""
    queue: dict[str, str] | None
    """Job -> state; None if SLURM does not answer."""

    @classmethod
    def now(cls, store: Store) -> InQueue:
        """Ask SLURM, unless nothing of this store was ever sent."""
        submissions, broken = notes(store, Submission)
        return cls(submissions, broken, slurm.queue() if submissions or broken else {})

    @cached_property
    def cells(self) -> set[str]:
        """Ids of the cells of queued and running jobs."""
        return ids_in(self.submissions, self.queue or {})

    def is_waiting(self, holder: Holder) -> bool:
        """Whether the job of a lease's holder waits in the queue, so that the holder is dead: its node was lost."""
        return holder.job != "" and (self.queue or {}).get(holder.job) in slurm.WAITING

    @cached_property
    def _collecting(self) -> list[Submission]:
        queue = self.queue or {}
        return [one for one in self.submissions if one.collector is not None and one.collector in queue]

    def sends_again(self, cell_id: str, failure: str) -> bool:
        """Whether a collecting job, which has not ended, will send a failed cell again."""
        return any(
            cell_id in ids and one.sends_again(cell_id, failure)
            for one in self._collecting
            for ids in one.jobs.values()
        )

    def is_collecting(self, suite: str) -> bool:
        """Whether a collecting job of the suite waits or runs."""
        return any(one.suite == suite for one in self._collecting)

    def ended_badly(self, suite: str) -> str:
        """End of the last collecting job of the suite if it did not do its work; otherwise empty."""
        sent = [one for one in self.submissions if one.suite == suite]
        if self.queue is None or not sent or any(job in self.queue for one in sent for job in one.all_jobs):
            return ""
        last = sent[-1].collector
        if last is None:
            return "the job that sends failed cells again was not sent"
        state = slurm.accounting_states([last]).get(last, "COMPLETED")
        if state.split()[0] in {"COMPLETED", *slurm.UNFINISHED}:
            return ""
        return f"job {last}, which sends failed cells again, ended as {state}"

"""Kill ranks of a two-rank cell at random moments on the test cluster, and compare the result with an undisturbed one.

    PYTHONPATH=tests python -m slurm.kill_campaign [--kills 20] [--seed 0]

Each kill is SIGKILL for one rank, while it imports or trains. The collecting job sends the cell again; where its policy
gives up, this script calls `symbench retry`, as a user does. Ctrl-C ends the kills, and the
cell runs to its end. Exit status 1 if an epoch is missing or a number differs.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from slurm.login_node import WAITING, LoginNode, ranks_on, same, started_cluster
from support import store_in

EPOCHS, RANKS, MOST_SECONDS = 30, 2, 8.0


class Campaign:
    """Kills of one cell, whose steps are slow until the last one."""

    def __init__(self, node: LoginNode, draw: random.Random) -> None:
        self.node, self.draw = node, draw
        self.kills, self.retries = 0, 0

    @property
    def epoch(self) -> int:
        """Last epoch of the cell that is recorded."""
        return max((record.status.epoch for record in self.node.records()), default=0)

    def kill(self) -> None:
        """Kill one rank at a random moment after one more epoch, or, one time in five, after its start."""
        while not (ranks := self.ranks()):
            if not self.node.queue():
                if self.node.states() == ["done"]:
                    sys.exit(f"the cell was done after {self.kills} kills; give it more epochs")
                self.retry()
            time.sleep(0.2)
        if self.draw.random() < 0.8:  # a rank that waits for a killed one to join it takes ten minutes
            before = self.epoch
            while self.ranks() == ranks and self.epoch == before:
                time.sleep(0.2)
        time.sleep(self.draw.uniform(0, MOST_SECONDS))
        victims = sorted(self.ranks())
        if victims != sorted(ranks):
            return
        victim = self.draw.choice(victims)
        os.kill(victim, signal.SIGKILL)
        self.kills += 1
        print(f"kill {self.kills}: rank {ranks[victim]} after epoch {self.epoch}", flush=True)
        self.node.wait_until(lambda: not set(victims) & set(self.ranks()))

    def ranks(self) -> dict[int, int]:
        """Process id -> rank of the running processes of the cell; empty until all have started."""
        if not (jobs := self.node.jobs("RUNNING")):
            return {}
        found_ranks = {pid: rank for host in ("n1", "n2") for pid, rank in ranks_on(host, jobs[0]).items()}
        return found_ranks if len(found_ranks) == RANKS else {}

    def retry(self) -> None:
        states = ", ".join(self.node.states()) or "not begun"
        done = self.node.symbench("retry", self.node.suite, "--on", self.node.site, "--plugin", self.node.plugin)
        assert done.returncode == 0, done.stderr
        self.retries += 1
        print(f"given up as {states}; symbench retry", flush=True)


def new_node(folder: Path, environment: dict[str, str], step_seconds: float) -> LoginNode:
    """Login node with a suite of one cell on two nodes."""
    folder.mkdir()
    node = LoginNode(environment, store_in(folder / "store", "small"), folder)
    node.plug_in("waiting", WAITING.replace("0.1", str(step_seconds)))
    node.declare("[{waiting: {hidden: 4}}]", epochs=EPOCHS, ranks=RANKS, nodes=RANKS)
    return node


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    environment = started_cluster()
    with tempfile.TemporaryDirectory() as name:
        calm = new_node(Path(name, "calm"), environment, 0.0)
        calm.run()
        while calm.states() != ["done"]:
            assert calm.queue(), calm.logs()
            time.sleep(1)
        calm.clear()
        node = new_node(Path(name, "campaign"), environment, 0.2)
        node.run()
        campaign = Campaign(node, random.Random(arguments.seed))
        with suppress(KeyboardInterrupt):
            while campaign.kills < arguments.kills:
                campaign.kill()
        (node.folder / "go").touch()
        while node.queue() or node.states() != ["done"]:
            if not node.queue():
                campaign.retry()
            time.sleep(1)
        (record,), (expected,) = node.records(), calm.records()
        is_complete = [epoch.epoch for epoch in record.history] == list(range(1, EPOCHS + 1))
        is_equal = same(record, expected) and expected.status.state == "done"
        print(
            f"{campaign.kills} kills, {record.status.attempt} attempts, {len(node.submissions())} submissions, "
            f"{campaign.retries} of them by retry; {EPOCHS} epochs {'complete' if is_complete else 'INCOMPLETE'}, "
            f"metrics {'equal bit for bit' if is_equal else 'DIFFERENT'}; {time.monotonic() - started:.0f} s"
        )
    return 0 if is_complete and is_equal else 1


if __name__ == "__main__":
    sys.exit(main())

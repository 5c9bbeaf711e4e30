"""Training as it goes on, in MLflow: an extra that may fail in any way and that nobody waits for.

Rank 0 puts what it records into a short queue as well; a thread of its own sends it to an MLflow server, into the run
that the next sync completes. It speaks MLflow's REST interface itself: the client would cost a second and 150 MB in
each job, and would wait and try again. A server that is away three times is given up, which is said once.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.files import write_json
from benchmark.recorder import Epoch, Recorder, State
from benchmark.rollouts import Rollouts
from benchmark.suite import Suite

from .mlflow_client import without_password
from .store import Store

if TYPE_CHECKING:
    from .report import Panel

TIMEOUT_SECONDS = 5.0
FAILURES = 3
"""In a row, after which the server is given up."""
WAITING = 200
"""Messages in the queue; what does not fit comes with a later one, or with the sync."""
LAST_WORDS_SECONDS = 5.0


def announce(store: Store, suite: Suite, server: str | None, elsewhere: bool = False) -> str:
    """Let the workers of `suite` know the server, `elsewhere` if not on this machine; None: they are not to log.

    Returns a warning where the server does not answer now, or is one of this machine alone, or nothing. UserError: not
    an address.
    """
    path = _note(store, suite.name)
    if server is None:
        if path.is_file():
            path.unlink()
        return ""
    try:
        parts, told = urllib.parse.urlsplit(server), without_password(server)
    except ValueError as error:  # which may repeat the password
        raise UserError("--live: not a readable address; must be as http://127.0.0.1:5000") from error
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(
            f"--live {told}: must be an MLflow server such as http://127.0.0.1:5000; jobs do not share a database"
        )
    if parts.password:
        raise UserError("--live: put the password into MLFLOW_TRACKING_PASSWORD; the address is written into the store")
    write_json(path, {"suite": suite.name, "server": server, "cells": sorted(cell.id for cell in suite.cells)})
    if elsewhere and parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return (
            f"live: a job on another node takes {told} for a server of its own; start one on an address that the nodes"
            " reach, such as `mlflow server --host ADDRESS`. The jobs try it, and run whether it answers or not"
        )
    try:
        urllib.request.urlopen(f"{server.rstrip('/')}/health", timeout=TIMEOUT_SECONDS).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"live: MLflow at {server}: {_reason(error)}; the jobs try it, and run whether it answers or not"
    return ""


def watched(recorder: Recorder, cell: Cell, store: Store) -> Recorder:
    """A recorder that also tells the server, if one was announced for the cell; else `recorder` itself."""
    for server, suite, cells in _announced(store.root):
        if cell.id in cells:
            return Watched(recorder, cell, reporter(server, suite))
    return recorder


def complete(store: Store, suite: Suite, report_html: str, panels: Sequence[Panel]) -> None:
    """Once the jobs are over: sync to the server that was announced. What fails is said, and left to the next sync."""
    from . import mlflow_view

    for server, name, _ in _announced(store.root):
        if name == suite.name:
            try:
                mlflow_view.sync(store, suite, server, report_html, panels)
            except (MachineError, UserError) as error:
                print(f"live: {error}", flush=True)


def close() -> None:
    """At the end of a process: wait for what is in the queue, but not for long."""
    for one in list(_REPORTERS.values()):
        one.close()


class Watched:
    """Writes through to a recorder, and then tells what it wrote."""

    def __init__(self, recorder: Recorder, cell: Cell, told: Reporter) -> None:
        self.recorder, self.cell, self.told = recorder, cell, told

    @property
    def checkpoint_path(self) -> Path:
        return self.recorder.checkpoint_path

    def start(self) -> None:
        self.recorder.start()
        self.told.start(self.cell)

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        self.recorder.progress(history, epochs)
        self.told.progress(self.cell, history)

    def environment(self, environment: Mapping[str, Any]) -> None:
        self.recorder.environment(environment)

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str) -> None:
        self.recorder.rollouts(rollouts, grid)

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        self.recorder.finish(state, metrics, message)
        self.told.end(self.cell, state, message)

    def fail(self, failure: str, message: str) -> None:
        self.recorder.fail(failure, message)
        self.told.end(self.cell, "failed", f"{failure}: {message}")


class Reporter:
    """A server and a suite; its methods return at once and never raise."""

    def __init__(self, server: str, suite: str) -> None:
        self.server, self.suite = server.rstrip("/"), suite
        self.gave_up = threading.Event()
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(WAITING)
        self._queued: dict[str, int] = {}
        self._runs: dict[str, tuple[str, int]] = {}
        self._experiment = ""
        threading.Thread(target=self._work, name="live", daemon=True).start()

    def start(self, cell: Cell) -> None:
        """An attempt begins."""
        self._put(partial(self._log, cell, [], {"symbench.state": "running"}, "RUNNING"))

    def progress(self, cell: Cell, history: Sequence[Epoch]) -> None:
        """The epochs so far; those that were not yet given to the queue are."""
        first = min(self._queued.get(cell.id, 0), len(history))
        if len(history) > first and self._put(partial(self._log, cell, list(history[first:]), {}, None)):
            self._queued[cell.id] = len(history)

    def end(self, cell: Cell, state: str, message: str) -> None:
        """The attempt is over; its numbers come with the sync."""
        status = "FAILED" if state == "failed" else "FINISHED"
        self._put(partial(self._log, cell, [], {"symbench.state": state, "symbench.message": message[:500]}, status))

    def close(self) -> None:
        """Wait until the queue is empty, at most LAST_WORDS_SECONDS."""
        done = threading.Event()
        if self._put(done.set):
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            while not done.wait(0.1) and not self.gave_up.is_set() and time.monotonic() < deadline:
                pass

    def _put(self, message: Callable[[], None]) -> bool:
        if self.gave_up.is_set():
            return False
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            return False
        return True

    def _work(self) -> None:
        failures = 0
        while True:
            message = self._queue.get()
            try:
                message()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, training must not notice
                failures += 1
                if failures >= FAILURES:
                    self.gave_up.set()
                    print(
                        f"live: MLflow at {self.server}: {_reason(error)}; given up. Training goes on, and"
                        f" `symbench sync SUITE --tracking-uri {self.server}` shows it later",
                        flush=True,
                    )
                    return

    def _log(self, cell: Cell, epochs: Sequence[Epoch], tags: Mapping[str, str], status: str | None) -> None:
        from .quantities import is_number  # numpy and scipy take a third of a second: not in the thread that trains

        run_id, shown = self._run(cell)
        now = round(1000 * time.time())
        metrics = [
            {"key": name, "value": getattr(epoch, name), "timestamp": now, "step": epoch.epoch}
            for epoch in epochs
            for name in ("train_loss", "validation_rmse")
            if epoch.epoch > shown and is_number(getattr(epoch, name))
        ]
        told = [{"key": key, "value": value} for key, value in tags.items()]
        for first in range(0, max(1, len(metrics)), 900):
            self._post("runs/log-batch", run_id=run_id, metrics=metrics[first : first + 900], tags=told)
        if epochs:
            self._runs[cell.id] = run_id, max(shown, epochs[-1].epoch)
        if status is not None:
            over = {} if status == "RUNNING" else {"end_time": now}
            self._post("runs/update", run_id=run_id, status=status, **over)

    def _run(self, cell: Cell) -> tuple[str, int]:
        """The run of the cell, found or made, and the last epoch that it shows."""
        if cell.id in self._runs:
            return self._runs[cell.id]
        from .mlflow_runs import cell_name, cell_params, cell_tags
        from .mlflow_write import IDENTITY

        experiment = self._experiment = self._experiment or self._find_experiment()
        found = self._post(
            "runs/search",
            experiment_ids=[experiment],
            filter=f"tags.`{IDENTITY}` = '{cell.id}'",
            run_view_type="ACTIVE_ONLY",
            max_results=1,
        ).get("runs", [])
        if found:
            metrics = found[0].get("data", {}).get("metrics", [])
            steps = [int(metric.get("step", 0)) for metric in metrics if metric["key"] == "validation_rmse"]
            run_id, shown = found[0]["info"]["run_id"], max(steps, default=-1)
        else:
            tags = {IDENTITY: cell.id, "symbench.live": "yes", **cell_tags(cell)}
            made = self._post(
                "runs/create",
                experiment_id=experiment,
                start_time=round(1000 * time.time()),
                run_name=cell_name(cell),
                tags=[{"key": key, "value": value} for key, value in tags.items()],
            )
            run_id, shown = made["run"]["info"]["run_id"], -1
            params = [{"key": key, "value": value} for key, value in cell_params(cell).items()]
            for first in range(0, len(params), 100):
                self._post("runs/log-batch", run_id=run_id, params=params[first : first + 100])
        self._touch(experiment)
        self._runs[cell.id] = run_id, shown
        return self._runs[cell.id]

    def _touch(self, experiment: str) -> None:
        """So that the next sync looks at every run, and finds this one."""
        from .mlflow_index import REVISION

        token = f"live-{os.getpid()}-{time.time_ns()}"
        self._post("experiments/set-experiment-tag", experiment_id=experiment, key=REVISION, value=token)

    def _find_experiment(self) -> str:
        from .mlflow_boards import SUITE, experiment_name

        name = experiment_name(self.suite)
        where = f"experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': name})}"
        try:
            return str(self._ask(where, None)["experiment"]["experiment_id"])
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
        tags = [{"key": SUITE, "value": self.suite}]
        try:
            return str(self._post("experiments/create", name=name, tags=tags)["experiment_id"])
        except urllib.error.HTTPError:  # another job was quicker, perhaps
            return str(self._ask(where, None)["experiment"]["experiment_id"])

    def _post(self, what: str, **document: Any) -> dict[str, Any]:
        return self._ask(what, json.dumps(document).encode())

    def _ask(self, what: str, content: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.server}/api/2.0/mlflow/{what}", content, {"Content-Type": "application/json", **_credentials()}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            document = json.load(answer)
        if not isinstance(document, dict):
            raise ValueError("its answer is not MLflow's")
        return document


_REPORTERS: dict[tuple[str, str], Reporter] = {}


def reporter(server: str, suite: str) -> Reporter:
    """The one of this process."""
    if (server, suite) not in _REPORTERS:
        _REPORTERS[server, suite] = Reporter(server, suite)
    return _REPORTERS[server, suite]


def _credentials() -> dict[str, str]:
    """As MLflow's own client takes them."""
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_SECONDS:.0f} s"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _note(store: Store, suite: str) -> Path:
    return store.root / "live" / f"{hashlib.sha256(suite.encode()).hexdigest()[:16]}.json"


@cache
def _announced(root: Path) -> list[tuple[str, str, frozenset[str]]]:
    """(server, suite, cells) of each note in the store; one that cannot be read is left."""
    found = []
    for path in sorted((root / "live").glob("*.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            found.append((str(note["server"]), str(note["suite"]), frozenset(note["cells"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"live: {path}: cannot be read ({error}); nothing is logged live for it", flush=True)
    return found

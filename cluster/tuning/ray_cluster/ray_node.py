"""One node of a Ray cluster of our own, started and stopped by us; no other Ray of the machine is touched."""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmark.errors import MachineError

PREFIX = "sbray-"
OBJECT_STORE_BYTES = 80_000_000
"""Ray's least; trials exchange a few numbers."""
START_SECONDS = 180.0
STARTED = "Ray runtime started"
LOOPBACK = "127.0.0.1"
PORTS_TRIED = 3
NODE_FOLDER = "RAY_TMPDIR"
"""The variable by which what runs on a node knows the node's folder, which goes with it."""


def environment(token: Path, ip: str) -> dict[str, str]:
    """The variables under which Ray's processes and those that speak to them run.

    Whoever wants something of this Ray has to know the token, for Ray does whatever it is asked to. On the loopback
    address alone where one node is all there is, for which Ray has this variable.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if ip == LOOPBACK else "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "PYTHONUNBUFFERED": "1",
    }


def write_token(folder: Path) -> Path:
    """A secret that only this user can read, in a file that all nodes see."""
    path = folder / "ray-token"
    with suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path


class RayNode:
    """The processes of one node. `address` is where the head listens."""

    def __init__(self, guard: subprocess.Popen[bytes], address: str, folder: Path, log: Path) -> None:
        self.guard, self.address, self.folder, self.log = guard, address, folder, log

    @property
    def alive(self) -> bool:
        """Whether Ray runs; one process of it that dies ends the node."""
        return self.guard.poll() is None

    def stop(self) -> None:
        """End it and wait until its processes and its folder are gone."""
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.guard.wait(timeout=30)


@contextmanager
def running(log: Path, token: Path, ip: str, cpus: int, gpus: int, head: str | None = None) -> Iterator[RayNode]:
    """A node with so many CPUs and GPUs for the length of the block: a new head, or one more node of `head`.

    MachineError: it does not start, or would listen to the whole internet.
    """
    if ipaddress.ip_address(ip).is_global:
        raise MachineError(f"{ip}: Ray would listen on a public address of this node; tune with --nodes 1")
    sweep()
    node = _start_head(log, token, ip, cpus, gpus) if head is None else _start(log, token, ip, cpus, gpus, head, [])
    try:
        yield node
    finally:
        node.stop()


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is gone at the end, and with the node where its process is killed."""
    return tempfile.TemporaryDirectory(prefix="symbench-", dir=os.environ.get(NODE_FOLDER))


def sweep() -> None:
    """Remove what a node of this machine left behind whose guard was killed, too."""
    for folder in _temporary_root().glob(f"{PREFIX}*"):
        try:
            owner = int((folder / "guard.pid").read_text()) if folder.stat().st_uid == os.getuid() else os.getpid()
        except (OSError, ValueError):
            continue
        if psutil.pid_exists(owner):
            continue
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.uids().real == os.getuid() and any(str(folder) in part for part in process.cmdline()):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def address_towards(host: str) -> str:
    """The address of this machine that `host` sees; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def own_address() -> str:
    """The address that other nodes reach this one at: what its name stands for, or else the way to the world."""
    with suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            return address
    return address_towards("192.0.2.1")


def _start_head(log: Path, token: Path, ip: str, cpus: int, gpus: int) -> RayNode:
    for attempt in range(PORTS_TRIED):
        port = _free_port(ip)
        own = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
        if find_spec("grpc"):  # then Ray also listens for distant drivers, and all of them on one port
            own.append(f"--ray-client-server-port={_free_port(ip)}")
        try:
            return _start(log, token, ip, cpus, gpus, f"{ip}:{port}", own)
        except MachineError:
            if attempt == PORTS_TRIED - 1:  # another process may have been quicker
                raise
    raise AssertionError


def _start(log: Path, token: Path, ip: str, cpus: int, gpus: int, address: str, own: Sequence[str]) -> RayNode:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary_root()))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *own),
        *([] if own else [f"--address={address}"]),
        f"--node-ip-address={ip}",
        f"--temp-dir={folder}",
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--min-worker-port=0",  # whatever is free: other studies may share the node
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false",
        "--disable-usage-stats",
    ]
    start = log.stat().st_size if log.exists() else 0
    guard = subprocess.Popen(
        [sys.executable, "-m", "cluster.tuning.ray_cluster.guard", str(folder), str(log), *command],
        stdin=subprocess.PIPE,
        env={**environment(token, ip), NODE_FOLDER: str(folder)},
        start_new_session=True,
    )
    (folder / "guard.pid").write_text(str(guard.pid))
    node = RayNode(guard, address, folder, log)
    deadline = time.monotonic() + START_SECONDS
    while not _said(log, start, STARTED):
        if not node.alive or time.monotonic() > deadline:
            node.stop()
            raise MachineError(f"Ray does not start; see {log}")
        time.sleep(0.1)
    return node


def _said(log: Path, start: int, words: str) -> bool:
    if not log.exists():
        return False
    with log.open("rb") as file:
        file.seek(start)
        return words.encode() in file.read()


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def _temporary_root() -> Path:
    """A folder of this node with a short name, since sockets of more than a hundred letters cannot be."""
    for name in ("/tmp", tempfile.gettempdir()):
        if os.access(name, os.W_OK):
            return Path(name)
    raise MachineError("there is no temporary folder to write to")

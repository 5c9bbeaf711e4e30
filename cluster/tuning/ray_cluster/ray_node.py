"""Node of a private Ray cluster, started and stopped by symbench; other Ray clusters of the machine are not touched."""

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
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmark.errors import MachineError

PREFIX, RAY_FOLDER = "sbray-", "r"
LONGEST_ROOT = 107 - len(
    f"/{PREFIX}12345678/{RAY_FOLDER}/session_2026-01-01_00-00-00_123456_4194304/sockets/plasma_store"
)
"""Characters of a temporary folder's path that leave room for Ray's sockets, whose paths have at most 107."""
OBJECT_STORE_BYTES = 80_000_000
"""Ray's minimum; trials exchange only a few numbers."""
START_SECONDS = 180.0
LOOPBACK = "127.0.0.1"
PORT_ATTEMPTS = 3
NODE_FOLDER = "RAY_TMPDIR"
"""Environment variable of the processes on a node: the node's folder, which is removed with the node."""


def environment(token: Path, ip: str) -> dict[str, str]:
    """Environment variables for Ray's processes and its clients.

    Clients must know the token, because Ray executes whatever it receives.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {
        **own,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if ip == LOOPBACK else "1",  # 0: listen on the loopback address alone
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
        "RAY_worker_niceness": "0",  # that of the command, as in `run`; with Ray's 15 a busy machine starves trials
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # of a trial that hangs; the default is ten minutes
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "PYTHONUNBUFFERED": "1",
    }


def write_token(folder: Path) -> Path:
    """Path of the cluster's secret in `folder`, which all nodes see and only this user can read."""
    path = folder / "ray-token"
    with suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(secrets.token_hex(32))
    return path


class RayNode:
    """Context manager that runs one node with `cpus` and `gpus`: a new head, or a further node of the cluster `head`.

    Its output goes to `log`. Entering raises MachineError if Ray does not start, or would listen on a public address.
    """

    def __init__(self, log: Path, ip: str, cpus: int, gpus: int, head: str | None = None) -> None:
        self.log, self.ip, self.cpus, self.gpus = log, ip, cpus, gpus
        self.address = head or ""
        """Address of the head; empty until a new head has started."""
        self.token = write_token(log.parent)

    def __enter__(self) -> RayNode:
        if address := next((one for one in listening_addresses(self.ip) if ipaddress.ip_address(one).is_global), None):
            raise MachineError(f"{address}: Ray would listen on a public address of this node; tune with --nodes 1")
        sweep()
        if self.address:
            self._start(f"--address={self.address}")
            return self
        for attempt in range(PORT_ATTEMPTS):
            port = _free_port(self.ip)
            options = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
            if find_spec("grpc"):  # then Ray also serves remote clients, by default of all clusters on one port
                options.append(f"--ray-client-server-port={_free_port(self.ip)}")
            try:
                self._start(*options)
                break
            except MachineError:  # another process may have taken the port
                if attempt == PORT_ATTEMPTS - 1:
                    raise
        self.address = f"{self.ip}:{port}"
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    @property
    def alive(self) -> bool:
        """Whether Ray runs; if one of its processes dies, the node ends."""
        return self.guard.poll() is None

    def _start(self, *options: str) -> None:
        self.folder = folder = Path(
            tempfile.mkdtemp(prefix=PREFIX, dir=_temporary_root())
        )  # 0700; Ray lets everybody into its own
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options),
            f"--node-ip-address={self.ip}",
            f"--temp-dir={folder / RAY_FOLDER}",
            f"--num-cpus={self.cpus}",
            f"--num-gpus={self.gpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--min-worker-port=0",  # any free port: other studies may share the node
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]
        log_size = self.log.stat().st_size if self.log.exists() else 0
        self.guard = subprocess.Popen(
            [sys.executable, "-m", "cluster.tuning.ray_cluster.guard", str(folder), str(self.log), *command],
            stdin=subprocess.PIPE,
            env={**environment(self.token, self.ip), NODE_FOLDER: str(folder)},
            start_new_session=True,
        )
        (folder / "guard.pid").write_text(str(self.guard.pid))
        deadline = time.monotonic() + START_SECONDS
        while not (self.log.exists() and b"Ray runtime started" in self.log.read_bytes()[log_size:]):
            if not self.alive or time.monotonic() > deadline:
                self._stop()
                raise MachineError(f"Ray does not start; see {self.log}")
            time.sleep(0.1)

    def _stop(self) -> None:
        """Wait until the processes and the folder of the node are gone."""
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.guard.wait(timeout=30)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Temporary folder, which is removed with the Ray node if its process is killed."""
    return tempfile.TemporaryDirectory(prefix="symbench-", dir=os.environ.get(NODE_FOLDER))


def sweep() -> None:
    """Remove the processes and folders of this user's nodes on this machine whose guards were killed."""
    for folder in _temporary_root().glob(f"{PREFIX}*"):
        try:
            guard = int((folder / "guard.pid").read_text()) if folder.lstat().st_uid == os.getuid() else os.getpid()
        except (OSError, ValueError):
            continue
        if psutil.pid_exists(guard):
            continue
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.uids().real == os.getuid() and any(str(folder) in part for part in process.cmdline()):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def address_towards(host: str) -> str:
    """IP address of this machine on the route to `host`; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def own_address() -> str:
    """IP address of this machine for other nodes: the address of its host name, or else of the default route."""
    with suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            return address
    return address_towards("192.0.2.1")


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def listening_addresses(ip: str) -> list[str]:
    """Addresses at which a Ray node with address `ip` can be reached: all of this machine, or the loopback address."""
    if ip == LOOPBACK:
        return [ip]
    families = (socket.AF_INET, socket.AF_INET6)
    return [one.address for of in psutil.net_if_addrs().values() for one in of if one.family in families]


def _temporary_root() -> Path:
    """Temporary folder that is writable, with a short name."""
    names = ("/tmp", tempfile.gettempdir())
    for name in names:
        if os.access(name, os.W_OK) and len(os.fsencode(name)) <= LONGEST_ROOT:
            return Path(name)
    raise MachineError(
        f"{' and '.join(dict.fromkeys(names))}: none is writable and has at most {LONGEST_ROOT} characters, as Ray's"
        " sockets need; set TMPDIR to one that is"
    )

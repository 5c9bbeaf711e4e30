"""An MLflow server that only this machine can reach."""

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path

from benchmark.errors import MachineError, UserError
from results.tracking.client import ENVIRONMENT, reach_this_machine_directly

PATIENCE_SECONDS = 180.0


def command(tracking_uri: str, artifacts: Path, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """argv of the server, to be run with `environment`. UserError: `host` is not a loopback address.

    Its pages are those of `results.tracking.app`, or MLflow's own where symbench was installed without that.
    """
    if host != "localhost" and not _is_loopback(host):
        raise UserError(f"--host {host}: the page has no password; only a loopback address such as 127.0.0.1 is served")
    names = _names(host)
    allowed = ",".join([*names, *(f"{name}:{port}" for name in names)])
    ours = ["--app-name", "symbench"] if entry_points(group="mlflow.app", name="symbench") else []
    return [
        *(sys.executable, "-m", "mlflow", "server", *ours, "--backend-store-uri", tracking_uri),
        *("--artifacts-destination", artifacts.as_uri(), "--host", host, "--port", str(port)),
        *("--workers", "1", "--allowed-hosts", allowed),
    ]


def environment(host: str, port: int) -> dict[str, str]:
    """Variables of the server: it takes requests from pages that it has served under any of its names."""
    origins = ",".join(f"http://{name}:{port}" for name in _names(host))
    return {**os.environ, **ENVIRONMENT, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origins}


@contextmanager
def serving(argv: list[str], host: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server, once it answers; it is stopped at the end. Its output goes to `log`.

    MachineError: the port is taken, or the server does not start.
    """
    _require_free(host, port)
    reach_this_machine_directly()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            argv, env=environment(host, port), stdout=output, stderr=output, start_new_session=True
        ) as server,
    ):
        try:
            _wait(server, f"http://{_in_url(host)}:{port}/health", log)
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # its workers, too


def address(host: str, port: int) -> str:
    """The address for a browser."""
    return f"http://{_in_url(host)}:{port}"


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise MachineError(f"the MLflow server does not start; see {log}")


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MachineError(f"--port {port}: cannot be used on {host} ({error.strerror}); choose another") from error


def _names(host: str) -> list[str]:
    """Names of this machine in addresses of the server."""
    return sorted({_in_url(host), "localhost", "127.0.0.1"})


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

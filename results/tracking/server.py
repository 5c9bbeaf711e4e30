"""An MLflow server that only this machine can reach, and only who has its secret can read."""

import html
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from benchmark.errors import MachineError, UserError
from results.tracking.client import ENVIRONMENT, reach_this_machine_directly
from results.tracking.guard import SECRET, TOKEN, cookie

PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Place:
    """Address of the server on this machine, and the secret of whoever may read there.

    UserError: `host` is not a loopback address.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    secret: str = field(default_factory=secrets.token_urlsafe, repr=False)

    def __post_init__(self) -> None:
        if self.host != "localhost" and not _is_loopback(self.host):
            raise UserError(f"--host {self.host}: only a loopback address such as 127.0.0.1 is served")

    @property
    def address(self) -> str:
        """Address without the secret."""
        return f"http://{_in_url(self.host)}:{self.port}"

    def link(self, path: str) -> str:
        """Link to a page that lets its reader in; `path` begins with `#`, as all of MLflow's do."""
        return f"{self.address}/?{urlencode({TOKEN: self.secret})}{path}"

    @property
    def names(self) -> list[str]:
        """Names of this machine in addresses of the server."""
        return sorted({_in_url(self.host), "localhost", "127.0.0.1"})


@contextmanager
def serving(place: Place, tracking_uri: str, artifacts: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server of `results.tracking.app`, once it answers; it is stopped at the end. Its output goes to `log`.

    MachineError: the port is taken, or the server does not start.
    """
    _require_free(place)
    reach_this_machine_directly()
    log.unlink(missing_ok=True)
    with (
        open(log, "xb", opener=partial(os.open, mode=0o600)) as output,
        subprocess.Popen(
            command(place, tracking_uri, artifacts),
            env=_environment(place),
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as server,
    ):
        try:
            _wait(server, place, log)
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # its workers, too


@contextmanager
def private_page(link: str, folder: Path) -> Iterator[str]:
    """Address of a file that leads to `link`, for the arguments of a browser, which every user of the machine sees."""
    with TemporaryDirectory(prefix=".mlflow-", dir=folder) as private:
        page = Path(private, "open.html")
        page.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={html.escape(link)}">\n')
        yield page.resolve().as_uri()


def command(place: Place, tracking_uri: str, artifacts: Path) -> list[str]:
    """argv of the server. MachineError: symbench was installed before it had an app of its own."""
    if not entry_points(group="mlflow.app", name="symbench"):
        raise MachineError("MLflow does not know the app of symbench; `pip install -e .` in the checkout adds it")
    allowed = ",".join([*place.names, *(f"{name}:{place.port}" for name in place.names)])
    return [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "symbench", "--backend-store-uri", tracking_uri),
        *("--artifacts-destination", artifacts.as_uri(), "--host", place.host, "--port", str(place.port)),
        *("--workers", "1", "--allowed-hosts", allowed),
    ]


def _environment(place: Place) -> dict[str, str]:
    """Variables of the server: it takes requests from pages that it has served under any of its names."""
    origins = ",".join(f"http://{name}:{place.port}" for name in place.names)
    return {**os.environ, **ENVIRONMENT, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origins, SECRET: place.secret}


def _wait(server: subprocess.Popen[bytes], place: Place, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    request = urllib.request.Request(f"{place.address}/health", headers={"Cookie": cookie(place.secret)})
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise MachineError(f"the MLflow server does not start; see {log}")


def _require_free(place: Place) -> None:
    with socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.host, place.port))
        except OSError as error:
            where = f"--port {place.port}: cannot be used on {place.host}"
            raise MachineError(f"{where} ({error.strerror}); choose another") from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

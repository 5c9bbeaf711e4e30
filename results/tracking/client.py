"""Connection to an MLflow server or database: errors in one sentence, and no harm to a database of something else."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from benchmark.errors import MachineError, UserError
from results.store.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables for our processes and for the server: no telemetry, short timeouts, no line for each run.

The server starts none of its eight job processes, which serve the tracing of language models.
"""


def default_tracking_uri(store: Store) -> str:
    """Address of the database in the store. UserError: its path has characters that mean something else there."""
    path = (store.root / "mlflow.db").resolve()
    if wrong := sorted({"%", "?"} & set(str(path))):
        raise UserError(
            f"store {store.root}: MLflow's address of a database cannot hold {' and '.join(wrong)}; rename the folder"
        )
    return f"sqlite:///{path}"


@contextmanager
def connect(tracking_uri: str, ours: bool = False) -> Iterator[MlflowClient]:
    """A client whose errors are one sentence.

    A database that is `ours` is written without waiting for the disk after each run, which is faster by a third; what a
    power cut may break can be deleted and rebuilt. UserError: not an address. MachineError: the server is down, slow or
    refuses, or the database is of something else.
    """
    try:
        shown = without_password(tracking_uri)
    except ValueError as error:  # which may repeat the password
        raise UserError("--tracking-uri: not a readable address; must be as http://127.0.0.1:5000") from error
    if not re.match(r"(https?|sqlite|postgresql|mysql|mssql|databricks)\b", tracking_uri):
        raise UserError(
            f"--tracking-uri {shown}: must be a server such as http://127.0.0.1:5000, or a database such as"
            " sqlite:////absolute/path.db"
        )
    _require_mlflow_database(tracking_uri)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    reach_this_machine_directly()
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry would be a line
    from mlflow.exceptions import MlflowException  # takes a second, and only sync and ui need it
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    with ExitStack() as stack:
        if ours:
            stack.enter_context(_not_waiting_for_the_disk())
        try:
            yield MlflowClient(tracking_uri=tracking_uri)
        # ImportError: there is no driver for such a database.
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            raise MachineError(
                f"MLflow at {shown}: {_reason(error)}; the results are safe in the store, and the next sync goes on"
            ) from error


def reach_this_machine_directly() -> None:
    """Let no proxy of the environment stand between this process, or one that it starts, and this machine."""
    for key in ("no_proxy", "NO_PROXY"):
        names = os.environ.get(key, "").split(",")
        os.environ[key] = ",".join(dict.fromkeys(filter(None, (*names, "localhost", "127.0.0.1", "::1"))))


def without_password(uri: str) -> str:
    """The address as it may be shown. ValueError: not an address."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))


def _reason(error: Exception) -> str:
    """The error on one line, in plain words if it is a frequent one."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)
    wrong = ("Connection refused", "NewConnectionError", "NameResolutionError", "Invalid url")
    if any(word in text for word in wrong):
        return "the server is down, or the address is wrong"
    if "timed out" in text.lower() or "timeout" in text.lower():
        return "the server does not answer in time"
    if "Connection aborted" in text or "RemoteDisconnected" in text or "Connection reset" in text:
        return "the server broke the connection off"
    if match := re.search(r"error code:? (\d{3})|returned (?:status )?(\d{3})", text):
        code = match[1] or match[2]
        words = {
            "401": "it wants a password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN);"
            " `symbench ui` is for browsers alone",
            "403": "it refuses (403); its --allowed-hosts, or what this user may do",
            "404": "there is no MLflow at this address (404)",
        }
        if code in words:
            return words[code]
    if "Can't locate revision" in text or "out-of-date database schema" in text:
        return "the database is of another version of MLflow; if it is the store's own, delete it and sync again"
    if "database is locked" in text:
        return "the database is locked by another process"
    return re.sub(r"\[SQL:.*", "", text)[:300].rstrip(" .")


@contextmanager
def _not_waiting_for_the_disk() -> Iterator[None]:
    """SQLite connections made in this block do not wait for the disk."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connect(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connect)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connect)


def _require_mlflow_database(tracking_uri: str) -> None:
    """UserError or MachineError if a SQLite file is not of MLflow, which would add its tables to any database."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or not path.exists():
        return
    if path.is_dir():
        raise UserError(f"--tracking-uri {tracking_uri}: is a folder; name a file in it")
    if path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise MachineError(
            f"MLflow at {tracking_uri}: not a readable database ({error}); delete it and sync"
        ) from error
    if tables and not {"experiments", "runs", "alembic_version"} <= tables:
        raise MachineError(f"MLflow at {tracking_uri}: the database belongs to something else; name another file")

"""Addresses, databases and servers that cannot be used: one sentence, no harm, no password."""

import socket
import sqlite3
import urllib.request

import pytest
import requests
from mlflow_support import IGNORED_WARNINGS, make_database, sync

from benchmark.errors import MachineError, UserError
from results.store.store import Store
from results.tracking import server as mlflow_server
from results.tracking.client import connect, default_tracking_uri, without_password

pytestmark = IGNORED_WARNINGS


def test_a_database_of_something_else_is_left_alone(small_board):
    path = small_board.store.root / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("create table customers (id integer)")
    database.close()
    content = path.read_bytes()
    with pytest.raises(MachineError, match="belongs to something else"):
        sync(small_board, f"sqlite:///{path}")
    assert path.read_bytes() == content
    path.write_bytes(b"no database at all, and long enough to tell" * 9)
    with pytest.raises(MachineError, match="not a readable database"):
        sync(small_board, f"sqlite:///{path}")


@pytest.mark.parametrize("uri", ["runs", "htp://127.0.0.1", "127.0.0.1:5000"])
def test_what_is_no_address_is_the_users_mistake(small_board, uri):
    with pytest.raises(UserError, match="must be a server such as"):
        sync(small_board, uri)


def test_a_database_of_a_later_mlflow_is_one_sentence(small_board):
    make_database(default_tracking_uri(small_board.store))
    with sqlite3.connect(small_board.store.root / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'from_the_future'")
    database.close()
    with pytest.raises(MachineError, match=r"of another version of MLflow; .* delete it and sync again"):
        sync(small_board)


@pytest.mark.parametrize("letter", "%?")
def test_a_store_that_mlflows_address_cannot_hold(tmp_path, letter):
    with pytest.raises(UserError, match=f"cannot hold [{letter}]; rename the folder"):
        default_tracking_uri(Store(tmp_path / f"25{letter}25"))


def test_no_proxy_stands_before_this_machine(small_board, monkeypatch):
    """The proxy would answer that it cannot be reached; the address itself refuses."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "")
    with connect("http://127.0.0.1:9"):
        assert urllib.request.getproxies()["no"] == "example.org,localhost,127.0.0.1,::1"
        assert requests.utils.should_bypass_proxies("http://127.0.0.1:9", no_proxy=None)


def test_a_server_that_is_down_or_silent_is_one_sentence(small_board, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(MachineError, match=r"^MLflow at http://127\.0\.0\.1:9: the server is down[^\n]+$"):
        sync(small_board, "http://127.0.0.1:9")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(MachineError, match=r"does not answer in time; the results are safe"):
            sync(small_board, f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_an_address_that_cannot_be_used_is_one_sentence(small_board, tmp_path):
    with pytest.raises(UserError, match="not a readable address"):
        sync(small_board, "http://me:secret@[::1")
    with pytest.raises(UserError, match="is a folder"):
        sync(small_board, f"sqlite:///{tmp_path}")
    with pytest.raises(MachineError, match="No module named"), connect("postgresql://me@host/a"):
        raise ImportError("No module named 'psycopg2'")  # as where a driver is installed, and MLflow wants another


@pytest.mark.parametrize("words", ["{}/a broke", "Invalid url: {}", "HTTPSConnectionPool: NameResolutionError {}"])
def test_a_password_in_an_error_is_not_repeated(words):
    with pytest.raises(MachineError) as caught, connect("https://me:secret@host"):
        raise OSError(words.format("https://me:secret@host"))
    assert "secret" not in str(caught.value)
    assert "address is wrong" in str(caught.value) or "https://me:***@host/a broke" in str(caught.value)


def test_a_password_is_not_repeated():
    assert without_password("https://me:secret@host:1/a") == "https://me:***@host:1/a"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_the_page_is_served_to_this_machine_alone(tmp_path):
    with pytest.raises(UserError, match="loopback"):
        mlflow_server.Place("0.0.0.0")
    place = mlflow_server.Place(port=5001)
    argv = mlflow_server.command(place, "sqlite:///x.db", tmp_path)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert "127.0.0.1:5001" in argv[argv.index("--allowed-hosts") + 1].split(",")
    assert not any(place.secret in argument for argument in argv)
    assert place.secret not in repr(place)
    argv = mlflow_server.command(mlflow_server.Place("::1"), "sqlite:///x.db", tmp_path)
    assert argv[argv.index("--host") + 1] == "::1"
    assert "[::1]:5000" in argv[argv.index("--allowed-hosts") + 1].split(",")


def test_without_the_guard_nothing_is_served(tmp_path, monkeypatch):
    """As where symbench was installed by a version that had no app."""
    monkeypatch.setattr(mlflow_server, "entry_points", lambda **_: ())
    with pytest.raises(MachineError, match="pip install -e"):
        mlflow_server.command(mlflow_server.Place(), "sqlite:///x.db", tmp_path)

"""`symbench ui` as it is started: what a reader with the link sees, and what everyone else and every writer gets."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import mlflow
import pytest
from fabricated_board import MODELS, Board, make_cell
from mlflow_support import IGNORED_WARNINGS, REPORT, free_port, make_database, runs, sync
from PIL import Image
from support import SYMBENCH

from benchmark.suite.suite import Resources, Suite
from results.store.store import Store
from results.tracking import guard
from results.tracking.client import default_tracking_uri

pytestmark = IGNORED_WARNINGS
API = "/ajax-api/2.0/mlflow"
NOBODY = 65534
AS_NOBODY = """
import json, os, sys, urllib.error, urllib.request
import encodings.idna, http.client
os.setgroups([]); os.setgid(65534); os.setuid(65534)
answers = []
for url, method, headers in json.load(sys.stdin):
    request = urllib.request.Request(url, b"{}" if method == "POST" else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answers.append((answer.status, answer.read().decode()))
    except urllib.error.HTTPError as error:
        answers.append((error.code, error.read().decode()))
readable = []
for path in sys.argv[1:]:
    try:
        open(path, "rb").close()
        readable.append(path)
    except OSError:
        pass
print(json.dumps([answers, readable]))
"""


@dataclass
class UI:
    """The command while it runs; `opened` is the address that the browser was started with."""

    board: Board
    url: str
    links: dict[str, str]
    opened: str
    process: subprocess.Popen[bytes]

    @property
    def secret(self):
        return re.search(r"\?token=([^#]+)#", next(iter(self.links.values())))[1]

    def ask(self, path, body=None, method=None, **headers):
        """Status, headers and text of the answer to a reader with the cookie."""
        headers = {"Cookie": guard.cookie(self.secret), "Content-Type": "application/json", **headers}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def experiments(self):
        _, _, answer = self.ask(f"{API}/experiments/search", {"max_results": 100})
        return json.loads(answer)["experiments"]


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ui")
    cells = [make_cell(model, level) for level in (0, 9) for model in MODELS]
    hostile = make_cell("<script>alert(1)</script>")
    board = Board(Suite("shown", Path("shown.yaml"), (*cells, hostile), Resources()), Store(folder / "store"))
    for cell in cells[:-1]:
        board.finish(cell)
    board.refuse(hostile, "<img src=x onerror=alert(1)>")
    make_database(default_tracking_uri(board.store))
    sync(board)
    browser, opened = folder / "browser", folder / "opened"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{opened}.part"\nmv "{opened}.part" "{opened}"\n')
    browser.chmod(0o755)
    port, printed = free_port(), folder / "printed"
    with printed.open("wb") as output:
        argv = [SYMBENCH, "ui", "--store", board.store.root, "--port", str(port), "--open"]
        environment = {**os.environ, "BROWSER": f"{browser} %s"}
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not opened.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert opened.exists(), printed.read_text() + (board.store.root / "mlflow-server.log").read_text()
        links = dict(re.findall(r"^  (.*?) +(http\S+)$", printed.read_text(), re.MULTILINE))
        yield UI(board, f"http://127.0.0.1:{port}", links, opened.read_text(), process)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def report_request(ui):
    (board,) = runs(ui.board, "tags.`symbench.kind` = 'leaderboard'")
    return f"/get-artifact?path=report.html&run_uuid={board.info.run_id}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_another_user_of_the_machine_gets_nothing(ui):
    guess = f"symbench-{ui.secret[:8]}={'x' * len(ui.secret)}"
    paths = ["/", "/?token=", "/?token=guess", "/health", "/version", f"{API}/experiments/search?max_results=9"]
    paths += [report_request(ui), "/static-files/favicon.ico", "/ajax-api/3.0/mlflow/server-info", "/nothing"]
    requests = [(path, "GET", {"Cookie": cookie}) for path in paths for cookie in ("", "symbench=", guess)]
    requests += [(path, "POST", {}) for path in (f"{API}/runs/search", f"{API}/experiments/create", "/graphql")]
    log = ui.board.store.root / "mlflow-server.log"
    private = [log, Path(ui.opened.removeprefix("file://")), f"/proc/{ui.process.pid}/environ"]
    answers, readable = json.loads(
        subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *map(str, private)],
            input=json.dumps([(ui.url + path, method, headers) for path, method, headers in requests]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert set(map(tuple, answers)) == {(401, guard.WANTS_LINK.decode())}
    assert readable == []


def test_the_secret_is_in_no_argument_and_no_log(ui):
    status, headers, page = ui.ask(f"/?token={ui.secret}", Cookie="")
    assert status == 200
    assert headers["Set-Cookie"].partition(";")[2] == " Path=/; HttpOnly; SameSite=Strict"
    assert ui.secret not in page
    arguments = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            arguments.append(path.read_bytes())
    assert any(b"--app-name" in line for line in arguments)
    assert not any(ui.secret.encode() in line for line in arguments)
    log = ui.board.store.root / "mlflow-server.log"
    assert ui.secret not in log.read_text()
    assert "GET / HTTP" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


WRITES = [
    ("POST", f"{API}/experiments/create", {"name": "x", "artifact_location": "file:///tmp/att"}),
    ("POST", "/api/2.0/mlflow/experiments/create", {"name": "x"}),
    ("POST", f"{API}/experiments/delete", {"experiment_id": "1"}),
    ("POST", f"{API}//experiments/delete", {"experiment_id": "1"}),
    ("POST", f"{API}/experiments/set-experiment-tag", {"experiment_id": "1", "key": "k", "value": "v"}),
    ("POST", f"{API}/runs/delete", {"run_id": "RUN"}),
    ("POST", f"{API}/upload-artifact?run_uuid=RUN&path=report.html", b"evil"),
    ("PATCH", f"{API}/model-versions/update", {}),
    ("DELETE", f"{API}/runs/delete-tag", {"run_id": "RUN", "key": "symbench.kind"}),
    ("DELETE", f"{API}-artifacts/artifacts/x", None),
    ("PUT", f"{API}-artifacts/artifacts/x", b"evil"),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message", {"message": "rm"}),
    ("POST", "/ajax-api/3.0/jobs/", {}),
]


def test_a_reader_cannot_write(ui):
    (board,) = runs(ui.board, "tags.`symbench.kind` = 'leaderboard'")
    before = ui.experiments(), ui.ask(report_request(ui))[2]
    for method, path, body in WRITES:
        text = (body if isinstance(body, bytes) else json.dumps(body).encode()).replace(
            b"RUN", board.info.run_id.encode()
        )
        status, _, answer = ui.ask(path.replace("RUN", board.info.run_id), text, method)
        assert (status, answer) == (403, guard.READ_ONLY.decode()), path
    assert before == (ui.experiments(), ui.ask(report_request(ui))[2])
    assert before[1] == REPORT.html


def test_artifacts_come_from_the_store_alone(ui, tmp_path):
    """The database is hostile: its experiments lie elsewhere, behind a link, or in a service."""
    from mlflow.tracking import MlflowClient

    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id_rsa").write_text("key")
    own = ui.board.store.root.resolve() / "mlartifacts"
    (tmp_path / "linked").symlink_to(own)
    client = MlflowClient(default_tracking_uri(ui.board.store))
    places = {
        "elsewhere": tmp_path.as_uri(),
        "climbing": f"{own.as_uri()}/../../climbing",
        "linked": (own / "linked").as_uri(),
        "service": "s3://bucket",
        "beside": own.with_name("mlartifacts-of-others").as_uri(),
    }
    for name, place in places.items():
        run = client.create_run(client.create_experiment(name, place))
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        if place.startswith("file:"):
            folder.parent.mkdir(parents=True)
            folder.symlink_to(tmp_path / "secret")
        for path in (
            f"/get-artifact?path=id_rsa&run_uuid={run.info.run_id}",
            f"{API}/artifacts/list?run_id={run.info.run_id}",
        ):
            status, _, answer = ui.ask(path)
            assert (status, "outside the artifacts of the store" in answer) == (403, True), (name, path, answer)
        question = f'{{mlflowListArtifacts(input: {{runId: "{run.info.run_id}"}}) {{files {{path}}}}}}'
        assert "id_rsa" not in ui.ask("/graphql", {"query": question})[2]
        client.delete_run(run.info.run_id)
    inside = client.create_run(client.create_experiment("inside", (own / "inside").as_uri()))
    folder = Path(inside.info.artifact_uri.removeprefix("file://"))
    folder.mkdir(parents=True)
    (folder / "id_rsa").symlink_to(tmp_path / "secret" / "id_rsa")
    status, _, answer = ui.ask(f"/get-artifact?path=id_rsa&run_uuid={inside.info.run_id}")
    assert (status, "outside the artifact directory" in answer) == (400, True)
    for experiment in [*places, "inside"]:
        client.delete_experiment(client.get_experiment_by_name(experiment).experiment_id)


def test_a_sync_beside_it_is_shown(ui):
    def shown():
        (experiment,) = [one for one in ui.experiments() if one["name"] == "symbench/shown"]
        which = {"experiment_ids": [experiment["experiment_id"]], "filter": "tags.`symbench.kind` = 'cell'"}
        return len(json.loads(ui.ask(f"{API}/runs/search", which)[2])["runs"])

    before = shown()
    ui.board.finish(ui.board.suite.cells[-2])
    sync(ui.board)
    assert shown() == before + 1


def test_a_page_under_another_name_of_this_machine_may_read(ui):
    origin = ui.url.replace("127.0.0.1", "localhost")
    status, _, _ = ui.ask(f"{API}/experiments/search", {"max_results": 1}, Origin=origin)
    assert status == 200


def assert_painted(screen):
    """Text, lines and marks: no blank page, and no lone spinner."""
    with Image.open(screen) as picture:
        counts = [count for count, _ in picture.convert("RGB").getcolors(2**24)]
    assert len(counts) > 100
    assert max(counts) < 0.97 * sum(counts)


@pytest.mark.browser
def test_the_boards_open_in_a_browser(ui, dump_dom, tmp_path):
    """Columns, filter and order as the link says; names as text; the report among the artifacts."""
    for added in ("", "&searchFilter=&orderByKey=&orderByAsc=&startTime=&lifecycleFilter=&datasetsFilter=W10%3D"):
        page = dump_dom(f"{ui.links['1 Who wins?']}{added}")  # what MLflow adds, and reload and Back keep
        for expected in ("verdict", "x best L0", "x best L9", "level 0 (data error 0, floor 0): relaxed_steerable_"):
            assert expected in page, expected
        assert "L0 best, not tested" in page
        assert ">LEADERBOARD<" not in page, "the board shows models"
        assert "<script>alert(1)" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert_painted(tmp_path / "screen.png")

    address = ui.links["The report"].partition("/artifacts")[0]
    page = dump_dom(address)
    assert "Lowest RMSE future" in page
    assert "<img src=x" not in page
    assert_painted(tmp_path / "screen.png")
    page = dump_dom(f"{address}/artifacts")
    for name in ("report.html", "leaderboard.csv", "figures"):
        assert name in page, name


def test_the_pages_are_as_our_own_expect_them(ui):
    """Internals of MLflow that `results.tracking.app` changes: if this fails, they have moved."""
    page = ui.ask("/")[2]
    assert "assistant.fab.autoOpenedOnFirstLoad_v1" in page.partition("<title>")[0], "our script is in the head"
    built = Path(mlflow.__file__).parent / "server" / "js" / "build"
    scripts = "".join(path.read_text(errors="replace") for path in built.rglob("*.js"))
    for name in ("assistant.fab.autoOpenedOnFirstLoad", "workflowType", "viewStateShareKey", "data-assistant-ui"):
        assert name in scripts, name


class Tab:
    """A tab of a browser that is driven by the debugging protocol of Chromium."""

    def __init__(self, socket):
        self.socket = socket

    async def call(self, method, **parameters):
        await self.socket.send_json({"id": 1, "method": method, "params": parameters})
        while (answer := await self.socket.receive_json()).get("id") != 1:
            pass
        return answer

    async def value(self, script):
        """None while the page is being exchanged for another."""
        answer = await self.call("Runtime.evaluate", expression=script)
        return answer.get("result", {}).get("result", {}).get("value")

    async def wait_for(self, script):
        deadline = time.monotonic() + 90
        while not await self.value(script):
            if time.monotonic() > deadline:
                page = await self.value("location.href + document.body.innerText")
                raise AssertionError(f"not so after 90 s: {script}\n{page}")
            await asyncio.sleep(0.3)


async def walk(chromium, profile, ui):
    """From the file that `--open` opens to the board, and reload and Back there."""
    report = "document.querySelector('iframe') !== null"
    has_rows = r"/\b[1-9]\d* matching runs/.test(document.body.innerText)"
    who_wins = "document.body.innerText.includes('verdict')"  # no column of the view of costs
    cost = "document.body.innerText.includes('train min')"
    with subprocess.Popen(
        [*chromium, "--remote-debugging-port=0", "about:blank"], stderr=subprocess.DEVNULL
    ) as browser:
        try:
            while not (ports := profile / "DevToolsActivePort").exists():
                await asyncio.sleep(0.2)
            address = f"http://127.0.0.1:{ports.read_text().split()[0]}/json/new"
            async with (
                aiohttp.ClientSession() as session,
                session.put(address) as answer,
                session.ws_connect((await answer.json())["webSocketDebuggerUrl"], max_msg_size=0) as socket,
            ):
                tab = Tab(socket)
                await tab.call("Page.navigate", url=ui.opened)
                await tab.wait_for(report)
                await tab.call("Page.reload")
                await tab.wait_for(report)
                await tab.call("Page.navigate", url=ui.links["1 Who wins?"])
                await tab.wait_for(who_wins)
                await tab.call("Page.reload")
                is_reloaded = "performance.getEntriesByType('navigation')[0].type === 'reload'"
                await tab.wait_for(f"{is_reloaded} && {who_wins} && {has_rows}")
                await tab.call("Page.navigate", url=ui.links["4 At what cost?"])
                await tab.wait_for(f"{cost} && !{who_wins}")
                await tab.value("history.back()")
                await tab.wait_for(f"{who_wins} && !{cost}")
                history = await tab.call("Page.getNavigationHistory")
                return [entry["url"] for entry in history["result"]["entries"]], await tab.value("document.cookie")
        finally:
            browser.terminate()


@pytest.mark.browser
def test_what_open_opens_leads_to_the_board_and_reload_and_back_stay_there(ui, chromium, tmp_path):
    addresses, cookie = asyncio.run(walk(chromium, tmp_path / "profile", ui))
    assert ui.opened.startswith("file:///")
    assert not any(ui.secret in address for address in addresses)
    assert cookie == "", "scripts of a page do not see it"


def test_ctrl_c_ends_it(ui):
    """Last of this file, since it takes the server away."""
    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(timeout=60) == 0
    assert not Path(ui.opened.removeprefix("file://")).exists()
    with pytest.raises(urllib.error.URLError):
        ui.ask("/health")

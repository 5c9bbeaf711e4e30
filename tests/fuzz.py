"""Mutated suite, site, tuned and record files, and what commands do with them: `python fuzz.py FOLDER [KIND NUMBER]`.

Each file follows from its kind and number alone. The last line is JSON: what failed, and the CPU seconds.
"""

import copy
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fabricated_board import MODELS, Board, make_cell
from ruamel.yaml import YAML
from support import store_in, suite_in
from tuning_support import EPOCHS, fabricate, make_folder, notes

from benchmark.errors import SymbenchError
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.suite.suite import SUITES_FOLDER, Resources, Suite
from benchmark.suite.tuned import provenance
from cluster import site
from results.board.contests import BoardTests
from results.board.leaderboard import aggregate, to_json
from results.board.table import to_table
from results.board.tuning_ledger import tuning_ledger, unequal_tuning
from results.store.store import Store
from results.store.studies import Effort, StudyFolder
from results.store.study_result import freeze
from results.tracking.suite_runs import wanted_runs

COUNTS = {"suite": 800, "site": 1150, "tuned": 400, "record": 2150, "history": 500}
MOST_SECONDS, MOST_BYTES = 12, 2**30
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -0.0, 0.5, 1e308, 5e-324, float("nan"), float("inf")),
    *("", " ", "a", "=", "~", "1e400", "é\u202e\x1b[2J", "<script>", "$(reboot)", "../../../etc/passwd", "x" * 1001),
    *([], {}, [[]], [None], {"": 0}, {"a": {"b": [1, {}]}}, [0] * 200, {str(n): n for n in range(50)}, "2026-02-30"),
    *("convnet", "e2cnn", "persistence", "smoke_rotation_levels", "each", "all", "slurm", "asha", "done", "running"),
]
PIECES = [
    *("\0", "\t", "\n", "\r", "\ufeff", ":", "- ", "? ", "#", "'", '"', "[", "]", "{", "}", "&a ", "*a", "!!set ", "%"),
    *(
        "<<: *a",
        "&a [*a]",
        "!!python/object:os.system {}",
        "{[1]: 2}",
        "{<<: 3}",
        "|\n",
        "---\n",
        "...\n",
        "0x" + "f" * 900,
    ),
    *(
        "1e999",
        ".nan",
        "-.inf",
        "2026-01-01",
        "12:30:45",
        "0o7",
        "1_000",
        "[" * 60,
        "{a: " * 60,
        "\ud800",
        "é",
        "=",
        "0" * 400,
    ),
    *("a: &a [1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\nd: [*c, *c]\n",),
]


ALL_KEYS = """\
name: everything
protocol: {name: disjoint, input_frames: 2, train_steps: [2, 3], test_steps: 4, target: change}
datasets: [{smoke_rotation_levels: {level: [0, 1], preset: small, grid: staggered}}]
models:
  - persistence
  - convnet: {hidden: 8, resources: {ranks: 2, minutes: 9}}
  - relaxed_steerable_rotation: {hidden: 8, penalty: [0, 1e-4]}
seeds: {count: 2}
train: {epochs: 4, batch_size: 4, learning_rate: [1e-3, 3e-3], rollout_steps: 1}
resources: {gpus: 0, ranks: 1, nodes: 1}
tuning:
  levels: [[0, 1]]
  keep: [hidden]
  train: {learning_rate: {low: 1e-4, high: 1e-2}, weight_decay: [0, 1e-4]}
plugins: []
keep: checkpoints
"""
"""A suite with each key."""


class TooSlowError(BaseException):
    """Signal that a file took its CPU seconds."""


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Container and key of each value in the tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((tree, key), *places(value))]


def changed_tree(chance: random.Random, tree: Any) -> Any:
    """`tree` with some values replaced, removed, doubled, renamed or moved."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if not (all_places := places(tree)):
            break
        holder, key = chance.choice(all_places)
        match chance.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(chance.choice(VALUES))  # a list of it may be changed later
            case 2:
                del holder[key]
            case 3:
                holder[key] = [holder[key]] * chance.choice([1, 2, 40])
            case 4 if isinstance(holder, dict):
                holder[chance.choice(["", "name", "seeds", 3, f"{key}x"])] = holder[key]
            case _:
                other, place = chance.choice(all_places)
                if place in other if isinstance(other, dict) else place < len(other):
                    holder[key] = json.loads(json.dumps(other[place]))
    return tree


def changed_text(chance: random.Random, text: str) -> bytes:
    """`text` with lines or characters removed, doubled, swapped, cut off, or with strange ones added."""
    for _ in range(chance.choice([1, 1, 2, 5])):
        lines, at = text.splitlines(keepends=True) or [""], chance.randrange(len(text) + 1)
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(7):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[at + chance.choice([1, 3, 20]) :]
            case 2:
                lines[one], lines[other] = lines[other], lines[one]
                text = "".join(lines)
            case 3:
                text = "".join((*lines[:one], *lines[other:]))
            case _:
                text = text[:at] + chance.choice(PIECES) + text[at:]
    content = text.encode("utf-8", "surrogatepass")
    return content if chance.random() < 0.95 else content[: chance.randrange(len(content) + 1)] + b"\xff\xfe"


def mutated(kind: str, number: int, seeds: list[str]) -> bytes:
    """File `number` of its kind."""
    chance = random.Random(f"{kind} {number}")
    text = chance.choice(seeds)
    if chance.random() < 0.5:
        return changed_text(chance, text)
    if kind == "history":
        return "\n".join(map(json.dumps, changed_tree(chance, [*map(json.loads, text.splitlines())]))).encode()
    if kind == "record":
        return json.dumps(changed_tree(chance, json.loads(text))).encode()
    tree = json.dumps(changed_tree(chance, json.loads(json.dumps(YAML(typ="safe").load(text)))))
    return tree.replace("NaN", ".nan").replace("Infinity", ".inf").encode()  # JSON is YAML but for these


def board_in(folder: Path) -> Board:
    """A board of three models, each with a record."""
    cells = tuple(make_cell(model) for model in MODELS)
    board = Board(Suite("levels", Path("levels.yaml"), cells, Resources()), Store(folder))
    for cell in cells:
        board.finish(cell)
    return board


def study_in(folder: Path) -> StudyFolder:
    """A study with two trials and their result, of the suite `tiny.yaml` in `folder`."""
    effort = Effort(trials=2)
    study = make_folder(store_in(folder / "store"), partial(suite_in, folder), effort)
    freeze(study, effort, [fabricate(study, note, [0.5] * EPOCHS) for note in notes(study, 2)])
    return study


def targets(folder: Path) -> dict[str, tuple[Path, list[str], Callable[[], object]]]:
    """Kind -> file to mutate, contents to begin with, and what is done with it."""
    board, study, own, cluster = board_in(folder / "board"), study_in(folder), folder / "own.yaml", folder / "site.yaml"
    finished = board.store.cell_folder(board.suite.cells[0].id)
    record, history = finished / "record.json", finished / "history.jsonl"
    tuned, root = str(folder / "tiny.yaml"), folder / "store"
    (cell,) = suites.load(tuned, root, tuned=True).cells

    def use_suite() -> None:
        distinct_studies(suites.load(str(own)))

    def use_result() -> None:
        provenance(root, cell)
        unequal_tuning(tuning_ledger(suites.load(tuned, root, tuned=True), {}, Store(root)))

    def use_records() -> None:
        records, _ = board.store.read(board.suite.cells)
        rows = aggregate(board.suite.cells, records)
        json.dumps(to_json(rows))
        to_table(rows, "rmse_future")
        wanted_runs(board.store, board.suite, BoardTests(rows, "rmse_future"), records)

    declared = [*(path.read_text() for path in sorted(SUITES_FOLDER.glob("*.yaml"))), *[ALL_KEYS] * 10]
    clusters = [path.read_text() for path in sorted(site.SITES_FOLDER.glob("*.yaml"))]
    return {
        "suite": (own, declared, use_suite),
        "site": (cluster, clusters, lambda: site.load(str(cluster))),
        "tuned": (study.result_path, [study.result_path.read_text()], use_result),
        "record": (record, [record.read_text()], use_records),
        "history": (history, [history.read_text()], use_records),
    }


def attempt(use: Callable[[], object]) -> str:
    """Traceback of a file, also if it took too much time; empty if there is none."""

    def too_slow(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        use()
    except SymbenchError as error:
        return "" if str(error).strip() else "an empty message"
    except (Exception, TooSlowError):  # noqa: BLE001
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def main(folder: Path, kind: str = "", number: str = "") -> None:
    """Try all files, or the one of that kind and number."""
    files = targets(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES,) * 2)
    wanted = [(kind, int(number))] if kind else [(name, index) for name in COUNTS for index in range(COUNTS[name])]
    failures, slowest = [], 0.0
    for name, index in wanted:
        path, seeds, use = files[name]
        path.write_bytes(mutated(name, index, seeds))
        begun = time.process_time()
        if problem := attempt(use):
            failures.append((name, index, problem))
        slowest = max(slowest, time.process_time() - begun)
        path.write_text(seeds[0], encoding="utf-8")  # what follows is of other files
    outcome = {"files": len(wanted), "failures": failures, "slowest": slowest, "seconds": time.process_time()}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""Published files: they come back as a field of ours, and whatever else they hold is refused by name and never run."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import random
import resource
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.cell import Protocol
from benchmark.data import dataset_registry, published
from benchmark.data.dataset import IMPORTED, PAPER, Preset, PublishedFiles
from benchmark.data.datasets.jetflow import JetFlow
from benchmark.data.layout import StoredField, data_path, read
from benchmark.data.published import import_files
from benchmark.errors import MachineError, UserError
from benchmark.groups import divergence

HEIGHT, WIDTH, FRAMES = 8, 6, 5
NAMES = ("raw_data_1_1.pt", "raw_data_1_2.pt", "raw_data_2_1.pt")
WHERE = "a friend has them"
PRESETS = {IMPORTED: Preset(HEIGHT, WIDTH, FRAMES)}
Import = Callable[[], StoredField]


class Smoke(JetFlow):
    """Smoke in the published form, but tiny."""

    presets = PRESETS
    published_files = PublishedFiles(NAMES, PAPER, WHERE)


class Jet(JetFlow):
    """Measurements, but few."""

    presets = PRESETS
    published_files = PublishedFiles(NAMES, PAPER, WHERE, measured=True)


def series(run: int = 0, frames: int = FRAMES + 1) -> Tensor:
    """Smoke as in a file: (time, 2, W, H)."""
    return torch.randn(frames, 2, WIDTH, HEIGHT, generator=torch.Generator().manual_seed(run))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a whole set of smoke."""
    folder = tmp_path / "published"
    folder.mkdir()
    for run, name in enumerate(NAMES):
        torch.save(series(run), folder / name)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def smoke(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Smoke())
    return lambda: read(import_files("toy", folder, out, lambda work: None))


@pytest.fixture
def jet(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Jet())
    return lambda: read(import_files("toy", folder, out, lambda work: None))


def refusal(call: Import, out: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The message; nothing is printed and nothing written."""
    with pytest.raises(UserError) as caught:
        call()
    assert not out.exists()
    assert capfd.readouterr() == ("", "")
    return str(caught.value)


def records(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as target:
        for name, record in content.items():
            target.writestr(name, record)
    return packed.getvalue()


def saved(something: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(something, buffer, **options)
    return buffer.getvalue()


def test_smoke_comes_back_with_its_axes_turned(smoke: Import, folder: Path, out: Path) -> None:
    stored = smoke()
    assert stored.path == data_path(out, "toy", IMPORTED, PAPER)
    assert (stored.preset, stored.level, stored.grid, stored.divergence_free) == (IMPORTED, PAPER, "staggered", False)
    assert (stored.spacing, stored.time_step, list(stored.equivariance_errors)) == (1.0, 1.0, [])
    assert stored.field.shape == (len(NAMES), FRAMES + 1, 2, HEIGHT, WIDTH)
    assert torch.equal(stored.field, torch.stack([series(run).mT for run in range(len(NAMES))]))
    assert [run["file"] for run in stored.run_parameters] == list(NAMES)
    first = stored.run_parameters[0]
    assert first["sha256"] == hashlib.sha256((folder / NAMES[0]).read_bytes()).hexdigest()
    assert (first["shape"], first["dtype"]) == ([FRAMES + 1, 2, WIDTH, HEIGHT], "float32")


def test_components_and_axes_of_smoke_belong_together(smoke: Import, folder: Path) -> None:
    """A swirl between walls has no divergence on the staggered stencil, but for that one must read the axes right."""
    stream = torch.zeros(FRAMES, HEIGHT + 1, WIDTH + 1, dtype=torch.float64)
    stream[:, 1:-1, 1:-1] = torch.rand(FRAMES, HEIGHT - 1, WIDTH - 1, generator=torch.Generator().manual_seed(0))
    swirl = torch.stack((stream[:, :-1].diff(dim=-1), -stream[:, :, :-1].diff(dim=-2)), dim=1)
    for name in NAMES:
        torch.save(swirl.float().mT.contiguous(), folder / name)
    field = smoke().field
    assert divergence(field, 1.0).abs().max() < 1e-6
    assert divergence(field.mT, 1.0).abs().max() > 0.5


@pytest.mark.parametrize("swapped", [False, True])
def test_the_component_order_of_measurements_is_that_without_divergence(
    jet: Import, folder: Path, swapped: bool
) -> None:
    stream = np.random.default_rng(0).standard_normal((FRAMES, HEIGHT + 2, WIDTH + 2))
    along_h, along_w = stream[:, 1:-1, 2:] - stream[:, 1:-1, :-2], stream[:, :-2, 1:-1] - stream[:, 2:, 1:-1]
    flow = torch.from_numpy(np.stack((along_h, along_w), axis=1)).float()
    for name in NAMES:
        torch.save(flow.flip(1) if swapped else flow, folder / name)
    stored = jet()
    assert torch.equal(stored.field, flow.expand(len(NAMES), -1, -1, -1, -1))
    assert (stored.grid, stored.parameters["components_swapped"]) == ("centered", swapped)
    both = [stored.parameters[f"mean_absolute_divergence_{order}"] for order in ("as_stored", "swapped")]
    assert min(both) < 1e-6 < 0.1 < max(both)
    assert "not published" in stored.parameters["units"]


def test_measurements_near_the_largest_number(jet: Import, folder: Path) -> None:
    for name in NAMES:
        torch.save(3e38 * series().mT.sign(), folder / name)
    assert jet().parameters["mean_absolute_divergence_as_stored"] > 1e38


def test_runs_are_cut_to_the_shortest(smoke: Import, folder: Path) -> None:
    torch.save(series(1, FRAMES), folder / NAMES[1])
    torch.save(series(2, FRAMES + 7), folder / NAMES[2])
    field = smoke().field
    assert field.shape[1] == FRAMES
    assert torch.equal(field[2], series(2, FRAMES + 7)[:FRAMES].mT)


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 0), (torch.float16, 2e-3)])
def test_other_floats_are_converted(smoke: Import, folder: Path, dtype: torch.dtype, accuracy: float) -> None:
    for run, name in enumerate(NAMES):
        torch.save(series(run).to(dtype), folder / name)
    stored = smoke()
    assert (stored.field - torch.stack([series(run).mT for run in range(len(NAMES))])).abs().max() <= accuracy
    assert stored.run_parameters[0]["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    "view",
    [
        lambda run: torch.stack((run, run), dim=-1)[..., 1],
        lambda run: torch.cat((run, run))[: len(run)],
        lambda run: run.mT.contiguous().mT,
        lambda run: run.clone().requires_grad_(),
    ],
    ids=["strided", "part", "transposed", "with a gradient"],
)
def test_a_view_is_what_it_shows(smoke: Import, folder: Path, view: Callable[[Tensor], Tensor]) -> None:
    torch.save(view(series()), folder / NAMES[0])
    assert torch.equal(smoke().field[0], series().mT)


def test_the_same_files_make_the_same_bytes(smoke: Import) -> None:
    path = smoke().path
    before = path.read_bytes()
    path.unlink()
    assert smoke().path.read_bytes() == before


def test_progress_counts_the_files(smoke: Import, folder: Path, out: Path) -> None:
    work: list[int] = []
    import_files("toy", folder, out, work.append)
    assert work == [1] * len(NAMES)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (
            series().to_sparse(),
            "holds something else than one plain tensor, with 'torch._utils._rebuild_sparse_tensor'",
        ),
        (torch.nn.Parameter(series()), "holds something else than one plain tensor, with 'torch._utils._rebuild_param"),
        (series().to(torch.complex64), "holds something else than one plain tensor, with 'torch.ComplexFloatStorage'"),
        (series().to(torch.bfloat16), "holds something else than one plain tensor, with 'torch.BFloat16Storage'"),
        (series().long(), "holds something else than one plain tensor, with 'torch.LongStorage'"),
        (series().to("meta"), "holds something else than one plain tensor, with 'torch._utils._rebuild_meta"),
        (series()[0], "holds a tensor of shape (2, 6, 8)"),
        (torch.tensor(1.0), "holds a tensor of shape ()"),
        (series()[None], "holds a tensor of shape (1, 6, 2, 6, 8)"),
        (series().mT.contiguous(), "holds a tensor of shape (6, 2, 8, 6)"),
        (series()[:, :1], "holds a tensor of shape (6, 1, 6, 8)"),
        (series()[:0], "holds 0 frames; 5 are needed"),
        (series(frames=FRAMES - 1), "holds 4 frames; 5 are needed"),
        (torch.ones(()).expand(10**9, 2, WIDTH, HEIGHT), "holds 1000000000 frames; at most"),
        (torch.randn(10**6)[: series().numel()].view(series().shape), "is larger than 1.0 MiB"),
        (torch.zeros_like(series()), "holds nothing but zeros"),
        (torch.full_like(series(), torch.nan), "holds values that are not finite"),
        (series().index_fill(0, torch.tensor(5), torch.inf), "holds values that are not finite"),
        (1e300 * series().double(), "holds values that are not finite as float32"),
    ],
)
def test_tensors_that_are_no_run(
    smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str], tensor: Tensor, complaint: str
) -> None:
    torch.save(tensor, folder / NAMES[1])
    message = refusal(smoke, out, capfd)
    assert f"{NAMES[1]} {complaint}" in message
    assert NAMES[0] not in message
    assert message.endswith(
        "right is one float32 tensor of shape (5 or more frames, 2, 6, 8) in each file, as torch.save writes it"
    )


class Runs:
    """Calls `function` when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hidden(tensor: Tensor, thing: object) -> bytes:
    """The archive of a plain tensor; `thing` is unpickled first, and dropped."""
    content = records(saved(tensor))
    name = next(name for name in content if name.endswith("data.pkl"))
    content[name] = pickle.dumps(thing, protocol=2)[:-1] + b"0" + content[name][2:]
    return archive(content)


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda trace: pickle.dumps(Runs(os.mkdir, str(trace))),
    "torch": lambda trace: saved(Runs(os.mkdir, str(trace))),
    "torch, protocol 4": lambda trace: saved(Runs(os.mkdir, str(trace)), pickle_protocol=4),
    "torch, legacy": lambda trace: saved(Runs(os.mkdir, str(trace)), _use_new_zipfile_serialization=False),
    "beside a tensor": lambda trace: saved([series(), Runs(os.mkdir, str(trace))]),
    "before a tensor": lambda trace: hidden(series(), Runs(os.mkdir, str(trace))),
    "memory": lambda trace: saved(Runs(bytearray, 10**9)),
    "memory before a tensor": lambda trace: hidden(series(), Runs(bytearray, 10**9)),
    "bomb": lambda trace: archive({"a/data.pkl": b"", "a/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_code_of_a_file_runs_and_memory_is_bounded(
    smoke: Import, folder: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    (folder / NAMES[0]).write_bytes(HOSTILE[kind](tmp_path / "trace"))
    tracemalloc.start()
    try:
        message = refusal(smoke, out, capfd)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"{NAMES[0]} holds something else" in message or f"{NAMES[0]} is " in message or "has the format" in message
    assert peak < 2**24
    assert not (tmp_path / "trace").exists()


def altered(record: str, value: bytes) -> bytes:
    content = records(saved(series()))
    return archive({name: value if name.endswith(record) else old for name, old in content.items()})


OTHER_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"Not found", "is not a whole, unaltered file of torch.save (BadZipFile)"),
    "half": (lambda: saved(series())[:1500], "is not a whole, unaltered file of torch.save (BadZipFile)"),
    "legacy": (lambda: saved(series(), _use_new_zipfile_serialization=False), "has the format of torch before 1.6"),
    "another zip": (lambda: archive({"a.txt": b"a"}), "is not a whole, unaltered file of torch.save"),
    "large": (lambda: bytes(2**21), "is larger than 1.0 MiB"),
    "a list": (lambda: saved([series()]), "holds something else than one plain tensor, with 'list'"),
    "a dictionary": (lambda: saved({"velocity": series()}), "holds something else than one plain tensor, with 'dict'"),
    "a number": (lambda: saved(1.0), "holds something else than one plain tensor, with 'float'"),
    "a model": (lambda: saved(torch.nn.Linear(2, 2)), "holds something else than one plain tensor, with 'torch.nn"),
    "long pickle": (lambda: saved(list(range(10**4))), "holds something else than one plain tensor"),
    "shared values": (lambda: saved([tuple("aa")] * 2), "holds something else than one plain tensor"),
    "few numbers": (lambda: altered("data/0", b"1234"), "is not a whole, unaltered file of torch.save"),
    "big-endian": (lambda: altered("byteorder", b"big"), "has the byte order 'big', and not little"),
    "unknown version": (lambda: altered("version", b"9" * 30), "is not a whole, unaltered file of torch.save"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_that_are_no_tensor(
    smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    content, complaint = OTHER_FILES[kind]
    (folder / NAMES[2]).write_bytes(content())
    assert f"{NAMES[2]} {complaint}" in refusal(smoke, out, capfd)


def test_a_torch_that_believes_what_a_tensor_claims(
    smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / NAMES[0]).write_bytes(altered("data/0", b"1234"))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: series())
    assert f"{NAMES[0]} is damaged: it does not hold as many numbers as it says" in refusal(smoke, out, capfd)


def test_names_out_of_a_file_are_printable(
    smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / NAMES[0]).write_bytes(altered("data.pkl", b"\x80\x02c\x1b[31m\n" + b"x" * 1000 + b"\n."))
    message = refusal(smoke, out, capfd)
    assert "with '\\x1b[31m.xxx" in message
    assert len(message) < 500


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to itself"])
def test_what_is_no_file(smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    path = folder / NAMES[0]
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert f"{NAMES[0]} is not a regular file" in refusal(smoke, out, capfd)


def test_an_unreadable_file(
    smoke: Import, out: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        assert f"{NAMES[0]} cannot be read (Permission denied)" in refusal(smoke, out, capfd)


def test_missing_files_come_first(smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / NAMES[1]).unlink()
    (folder / NAMES[0]).write_bytes(b"")
    torch.save(series(frames=2), folder / NAMES[2])
    first, *problems, _ = refusal(smoke, out, capfd).splitlines()
    assert first == f"{folder}: toy cannot be imported from here"
    assert problems == [
        f"  1 of 3 files are missing, {NAMES[1]}: {WHERE}",
        f"  {NAMES[0]} is empty",
        f"  {NAMES[2]} holds 2 frames; 5 are needed",
    ]


def test_a_folder_without_the_files(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: JetFlow())
    message = refusal(lambda: read(import_files("jetflow", tmp_path, out, lambda work: None)), out, capfd)
    assert "it holds none of the expected files raw_data_1_1.pt, raw_data_1_2.pt, " in message
    assert "raw_data_2_2.pt and 14 more: the authors of arXiv 2201.11969 share the 24 files publicly" in message


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder(
    smoke: Import, folder: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    place, reason = {
        "missing": (tmp_path / "nowhere", "No such file or directory"),
        "file": (folder / NAMES[0], "Not a directory"),
    }[kind]
    message = refusal(lambda: read(import_files("toy", place, out, lambda work: None)), out, capfd)
    assert message == f"{place}: {reason}; right is a folder with {', '.join(NAMES)} ({WHERE})"


def test_an_unreadable_folder(smoke: Import, folder: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def as_nobody() -> StoredField:
        """Root may read everything."""
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            return smoke()
        finally:
            os.seteuid(user)

    folder.chmod(0)
    message = refusal(as_nobody, out, capfd)
    folder.chmod(0o755)
    assert message.startswith(f"{folder}: Permission denied; right is a folder with")


def test_simulated_and_unknown_datasets(folder: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"smoke_rotation_levels is simulated .*there are for: .*jetflow"):
        import_files("smoke_rotation_levels", folder, out, lambda work: None)
    with pytest.raises(UserError, match="did you mean 'jetflow'"):
        import_files("jetflo", folder, out, lambda work: None)


def test_a_full_disk_leaves_nothing(smoke: Import, out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(MachineError, match="File too large"):
            smoke()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [found for found in out.rglob("*") if found.is_file()] == []


def attempt(content: bytes, path: Path) -> np.ndarray | None:
    """The frames of a file, or None where it is refused; anything but these two fails the test."""
    path.write_bytes(content)
    try:
        return published._read(path, FRAMES, (WIDTH, HEIGHT)).frames
    except published._UnusableError:
        return None


def test_truncated_anywhere(tmp_path: Path) -> None:
    content = saved(series())
    for length in {*range(0, len(content), 7), *range(len(content) - 150, len(content))}:
        assert attempt(content[:length], tmp_path / "cut.pt") is None


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_byte_changes_a_number(tmp_path: Path, seed: int) -> None:
    content, draw = saved(series()), random.Random(seed)
    for _ in range(500):
        flipped = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 5))):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        frames = attempt(bytes(flipped), tmp_path / "flipped.pt")
        assert frames is None or np.array_equal(frames, series().numpy())


def test_jetflow_is_the_published_set() -> None:
    jet = JetFlow()
    names = jet.published_files.names
    assert (len(names), names[0], names[8], names[-1]) == (24, "raw_data_1_1.pt", "raw_data_2_1.pt", "raw_data_3_8.pt")
    splits = jet.splits(Protocol(name="icml2022"), IMPORTED)
    assert [names[run][9:12] for run in splits["domain"].runs] == ["2_3", "3_7", "2_7", "2_5", "3_2", "1_5"]
    assert (len(splits["train"].runs), len(splits["future"].starts)) == (18, 50)
    assert max(splits["future"].starts) + 10 + 20 == jet.presets[IMPORTED].frames
    assert jet.level_value(PAPER) == 0


def test_jetflow_is_not_simulated() -> None:
    jet = JetFlow()
    for call in (lambda: jet.parts(PAPER, IMPORTED), lambda: jet.assemble(PAPER, IMPORTED, [])):
        with pytest.raises(UserError, match=r"measured, not simulated.*symbench data import jetflow DIR"):
            call()

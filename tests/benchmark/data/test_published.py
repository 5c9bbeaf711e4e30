"""Import of published files: their fields come back, other content is refused by name and never run."""

import errno
import hashlib
import io
import os
import pickle
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import full_disk
from torch import Tensor

from benchmark.data import dataset_registry, published
from benchmark.data.dataset import IMPORTED, PAPER, Preset, PublishedFiles
from benchmark.data.datasets.jetflow import JetFlow
from benchmark.data.layout import StoredField, read
from benchmark.data.paths import data_path
from benchmark.data.published import import_files
from benchmark.errors import MachineError, UserError
from benchmark.groups import divergence

HEIGHT, WIDTH, FRAMES = 8, 6, 5
NAMES = ("raw_data_1_1.pt", "raw_data_1_2.pt", "raw_data_2_1.pt")
WHERE = "a friend has them"
OTHER = "holds something else than one plain tensor"
PRESETS = {IMPORTED: Preset(HEIGHT, WIDTH, FRAMES)}
Import = Callable[[], StoredField]


class Toy(JetFlow):
    """Few runs of smoke in the published form."""

    presets = PRESETS
    published_files = PublishedFiles(NAMES, PAPER, WHERE)


def series(run: int = 0, frames: int = FRAMES + 1) -> Tensor:
    """Smoke as in a file: (time, 2, W, H)."""
    return torch.randn(frames, 2, WIDTH, HEIGHT, generator=torch.Generator().manual_seed(run))


def save_all(folder: Path, tensor: Tensor) -> None:
    """Save one tensor as every run."""
    for name in NAMES:
        torch.save(tensor, folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with all files of smoke."""
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
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Toy())
    return lambda: read(import_files("toy", folder, out, lambda work: None))


@pytest.fixture
def jet(smoke: Import, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setattr(Toy, "published_files", PublishedFiles(NAMES, PAPER, WHERE, measured=True))
    return smoke


@pytest.fixture
def refusal(smoke: Import, out: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Message of a refused import, of smoke by default; nothing is printed and nothing written."""

    def message(call: Callable[[], object] = smoke) -> str:
        with pytest.raises(UserError) as caught:
            call()
        assert not out.exists()
        assert capfd.readouterr() == ("", "")
        return str(caught.value)

    return message


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


def test_smoke_comes_back_with_its_axes_swapped(smoke: Import, folder: Path, out: Path) -> None:
    stored = smoke()
    assert stored.path == data_path(out, "toy", IMPORTED, PAPER)
    assert (stored.preset, stored.level, stored.grid, stored.divergence_free) == (IMPORTED, PAPER, "staggered", False)
    assert (stored.spacing, stored.time_step, list(stored.equivariance_errors)) == (1.0, 1.0, [])
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
    save_all(folder, swirl.float().mT.contiguous())
    field = smoke().field
    assert divergence(field, 1.0).abs().max() < 1e-6
    assert divergence(field.mT, 1.0).abs().max() > 0.5


@pytest.mark.parametrize("swapped", [False, True])
def test_the_component_order_has_the_least_divergence(jet: Import, folder: Path, swapped: bool) -> None:
    stream = np.random.default_rng(0).standard_normal((FRAMES, HEIGHT + 2, WIDTH + 2))
    along_h, along_w = stream[:, 1:-1, 2:] - stream[:, 1:-1, :-2], stream[:, :-2, 1:-1] - stream[:, 2:, 1:-1]
    flow = torch.from_numpy(np.stack((along_h, along_w), axis=1)).float()
    save_all(folder, flow.flip(1) if swapped else flow)
    stored = jet()
    assert torch.equal(stored.field, flow.expand(len(NAMES), -1, -1, -1, -1))
    assert (stored.grid, stored.parameters["components_swapped"]) == ("centered", swapped)
    both = [stored.parameters[f"mean_absolute_divergence_{order}"] for order in ("as_stored", "swapped")]
    assert min(both) < 1e-6 < 0.1 < max(both)
    assert "not published" in stored.parameters["units"]


def test_measurements_near_the_largest_number(jet: Import, folder: Path) -> None:
    save_all(folder, 3e38 * series().mT.sign())
    assert jet().parameters["mean_absolute_divergence_as_stored"] > 1e38


def test_runs_are_cut_to_the_shortest(smoke: Import, folder: Path) -> None:
    torch.save(series(1, FRAMES), folder / NAMES[1])
    torch.save(series(2, FRAMES + 7), folder / NAMES[2])
    field = smoke().field
    assert field.shape[1] == FRAMES
    assert torch.equal(field[2], series(2, FRAMES + 7)[:FRAMES].mT)


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 0), (torch.float16, 2e-3)])
def test_other_floats_are_converted(smoke: Import, folder: Path, dtype: torch.dtype, accuracy: float) -> None:
    save_all(folder, series().to(dtype))
    stored = smoke()
    assert (stored.field - series().mT).abs().max() <= accuracy
    assert stored.run_parameters[0]["dtype"] == str(dtype).removeprefix("torch.")


def test_a_view_is_what_it_shows(smoke: Import, folder: Path) -> None:
    run = series()
    strided, part = torch.stack((run, run), dim=-1)[..., 1], torch.cat((run, run))[: len(run)]
    for view in (strided, part, run.mT.contiguous().mT, run.clone().requires_grad_()):
        torch.save(view, folder / NAMES[0])
        assert torch.equal(smoke().field[0], run.mT)


def test_equal_files_make_equal_bytes_and_are_counted(smoke: Import, folder: Path, out: Path) -> None:
    path = smoke().path
    before = path.read_bytes()
    work: list[int] = []
    path.unlink()
    import_files("toy", folder, out, work.append)
    assert path.read_bytes() == before
    assert work == [1] * len(NAMES)


class Runs:
    """Object that calls `function` when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hidden(tensor: Tensor, thing: object) -> bytes:
    """Archive of a plain tensor whose pickle first loads `thing` and drops it."""
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
def test_no_code_of_a_file_runs_and_memory_is_bounded(refusal: Callable[[], str], folder: Path, kind: str) -> None:
    (folder / NAMES[0]).write_bytes(HOSTILE[kind](folder / "trace"))
    tracemalloc.start()
    try:
        message = refusal()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"{NAMES[0]} holds something else" in message or f"{NAMES[0]} is " in message or "has the format" in message
    assert peak < 2**24
    assert not (folder / "trace").exists()


def altered(record: str, value: bytes) -> bytes:
    content = records(saved(series()))
    return archive({name: value if name.endswith(record) else old for name, old in content.items()})


DAMAGED = "is not a whole, unaltered file of torch.save"
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"Not found", f"{DAMAGED} (BadZipFile)"),
    "half": (saved(series())[:1500], f"{DAMAGED} (BadZipFile)"),
    "legacy": (saved(series(), _use_new_zipfile_serialization=False), "has the format of torch before 1.6"),
    "another zip": (archive({"a.txt": b"a"}), DAMAGED),
    "large": (bytes(2**21), "is larger than 1.0 MiB"),
    "a list": (saved([series()]), f"{OTHER}, with 'list'"),
    "a dictionary": (saved({"velocity": series()}), f"{OTHER}, with 'dict'"),
    "a number": (saved(1.0), f"{OTHER}, with 'float'"),
    "a model": (saved(torch.nn.Linear(2, 2)), f"{OTHER}, with 'torch.nn"),
    "long pickle": (saved(list(range(10**4))), OTHER),
    "shared values": (saved([tuple("aa")] * 2), OTHER),
    "few numbers": (altered("data/0", b"1234"), DAMAGED),
    "big-endian": (altered("byteorder", b"big"), "has the byte order 'big', and not little"),
    "unknown version": (altered("version", b"9" * 30), DAMAGED),
    "sparse": (saved(series().to_sparse()), f"{OTHER}, with 'torch._utils._rebuild_sparse_tensor'"),
    "parameter": (saved(torch.nn.Parameter(series())), f"{OTHER}, with 'torch._utils._rebuild_param"),
    "complex": (saved(series().to(torch.complex64)), f"{OTHER}, with 'torch.ComplexFloatStorage'"),
    "bfloat16": (saved(series().to(torch.bfloat16)), f"{OTHER}, with 'torch.BFloat16Storage'"),
    "integer": (saved(series().long()), f"{OTHER}, with 'torch.LongStorage'"),
    "meta": (saved(series().to("meta")), f"{OTHER}, with 'torch._utils._rebuild_meta"),
    "one frame": (saved(series()[0]), "holds a tensor of shape (2, 6, 8)"),
    "scalar": (saved(torch.tensor(1.0)), "holds a tensor of shape ()"),
    "six axes": (saved(series()[None]), "holds a tensor of shape (1, 6, 2, 6, 8)"),
    "axes swapped": (saved(series().mT.contiguous()), "holds a tensor of shape (6, 2, 8, 6)"),
    "one component": (saved(series()[:, :1]), "holds a tensor of shape (6, 1, 6, 8)"),
    "no frames": (saved(series()[:0]), "holds 0 frames; 5 are needed"),
    "few frames": (saved(series(frames=FRAMES - 1)), "holds 4 frames; 5 are needed"),
    "endless frames": (saved(torch.ones(()).expand(10**9, 2, WIDTH, HEIGHT)), "holds 1000000000 frames; at most"),
    "large storage": (saved(torch.randn(10**6)[: series().numel()].view(series().shape)), "is larger than 1.0 MiB"),
    "zeros": (saved(torch.zeros_like(series())), "holds nothing but zeros"),
    "nan": (saved(torch.full_like(series(), torch.nan)), "holds values that are not finite"),
    "infinity": (saved(series().index_fill(0, torch.tensor(5), torch.inf)), "holds values that are not finite"),
    "beyond float32": (saved(1e300 * series().double()), "holds values that are not finite as float32"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_content_is_refused(refusal: Callable[[], str], folder: Path, kind: str) -> None:
    content, complaint = REFUSED[kind]
    (folder / NAMES[1]).write_bytes(content)
    message = refusal()
    assert f"{NAMES[1]} {complaint}" in message
    assert NAMES[0] not in message
    right = "one float32 tensor of shape (5 or more frames, 2, 6, 8) in each file, as torch.save writes it"
    assert message.endswith(f"right is {right}")


def test_a_torch_that_believes_what_a_tensor_claims(
    refusal: Callable[[], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / NAMES[0]).write_bytes(altered("data/0", b"1234"))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: series())
    assert f"{NAMES[0]} is damaged: it does not hold as many numbers as it says" in refusal()


def test_names_out_of_a_file_are_printable(refusal: Callable[[], str], folder: Path) -> None:
    (folder / NAMES[0]).write_bytes(altered("data.pkl", b"\x80\x02c\x1b[31m\n" + b"x" * 1000 + b"\n."))
    message = refusal()
    assert "with '\\x1b[31m.xxx" in message
    assert len(message) < 500


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_special_files_are_refused(refusal: Callable[[], str], folder: Path, make: Callable[[Path], None]) -> None:
    path = folder / NAMES[0]
    path.unlink()
    make(path)
    assert f"{NAMES[0]} is not a regular file" in refusal()


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("open", f"  {NAMES[0]} cannot be read (Permission denied)\n"),
        ("iterdir", "published: Permission denied; right is a folder with"),
    ],
)
def test_without_permission(
    refusal: Callable[[], str], monkeypatch: pytest.MonkeyPatch, method: str, complaint: str
) -> None:
    def refuse(path: Path, *mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, method, refuse)
    assert complaint in refusal()


def test_missing_files_come_first(refusal: Callable[[], str], folder: Path) -> None:
    (folder / NAMES[1]).unlink()
    (folder / NAMES[0]).write_bytes(b"")
    torch.save(series(frames=2), folder / NAMES[2])
    first, *problems, _ = refusal().splitlines()
    assert first == f"{folder}: toy cannot be imported from here"
    assert problems == [
        f"  1 of 3 files are missing, {NAMES[1]}: {WHERE}",
        f"  {NAMES[0]} is empty",
        f"  {NAMES[2]} holds 2 frames; 5 are needed",
    ]


def test_a_folder_without_the_files(
    refusal: Callable[..., str], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: JetFlow())
    message = refusal(lambda: import_files("jetflow", tmp_path, out, lambda work: None))
    assert "it holds none of the expected files raw_data_1_1.pt, raw_data_1_2.pt, " in message
    assert "raw_data_2_2.pt and 14 more: the authors of arXiv 2201.11969 share the 24 files publicly" in message


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere", "No such file or directory"), (f"published/{NAMES[0]}", "Not a directory")]
)
def test_no_folder(refusal: Callable[..., str], out: Path, tmp_path: Path, name: str, reason: str) -> None:
    message = refusal(lambda: import_files("toy", tmp_path / name, out, lambda work: None))
    assert message == f"{tmp_path / name}: {reason}; right is a folder with {', '.join(NAMES)} ({WHERE})"


def test_simulated_and_unknown_datasets(folder: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"smoke_rotation_levels is simulated .*there are for: .*jetflow"):
        import_files("smoke_rotation_levels", folder, out, lambda work: None)
    with pytest.raises(UserError, match="did you mean 'jetflow'"):
        import_files("jetflo", folder, out, lambda work: None)


def test_a_full_disk_leaves_nothing(smoke: Import, out: Path) -> None:
    with pytest.raises(MachineError, match="File too large"), full_disk():
        smoke()
    assert [path for path in out.rglob("*") if path.is_file()] == []


def attempt(content: bytes, path: Path) -> np.ndarray | None:
    """Frames of a file, or None if it is refused; another exception fails the test."""
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

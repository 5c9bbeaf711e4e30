"""Ranks that cannot reach each other, or of which one has failed."""

import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from benchmark.errors import MachineError
from benchmark.training import distributed
from benchmark.training.distributed import join


@pytest.mark.parametrize("name", ["localhost", "no-such-host.invalid"])
def test_a_host_whose_name_is_a_loopback_address_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Debian's /etc/hosts. gloo gives the address to the other hosts, which would look for the rank at home."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    refused = pytest.raises(MachineError, match=rf"the name {name} stands for (127.0.0.1|::1), where no other host")
    with refused, join(0, 2, torch.device("cpu"), tmp_path / "rendezvous", nodes=2):
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_after_an_error_nccl_is_not_destroyed(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of its group waits for all ranks, and some have gone. nccl is imitated here."""
    calls: list[str] = []
    for name in ("init_process_group", "new_group", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *args, name=name, **options: calls.append(name))
    monkeypatch.setattr(distributed, "_listen", lambda *args: dist.HashStore())
    monkeypatch.setattr(distributed, "_require_own_gpus", lambda *args: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-0"))
    with suppress(ValueError), join(0, 2, torch.device("cuda", 0), tmp_path / "rendezvous"):
        if fails:
            raise ValueError("of the model")
    assert calls == ["init_process_group", "new_group", *([] if fails else ["destroy_process_group"])]

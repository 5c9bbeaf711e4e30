"""Ranks of several hosts that cannot reach each other."""

import socket
from pathlib import Path

import pytest
import torch

from benchmark.errors import MachineError
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

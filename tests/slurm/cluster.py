"""Start and stop a real SLURM of two nodes on this machine for the tests. Needs root and the packages of packages.txt.

    python tests/slurm/cluster.py up [--root DIR]        starts the missing daemons and waits until all answer
    python tests/slurm/cluster.py status [--root DIR]    exit status 0 if all daemons run, 1 otherwise
    python tests/slurm/cluster.py down [--root DIR]      stops everything and keeps the logs
    python tests/slurm/cluster.py pids NAME              process ids of a daemon (slurmctld) or a host (n1)

Each host is a network namespace with its own address and host name, so that jobs see two machines.
`ip -n n2 link set eth0 down` cuts a node off, and `up` connects it again. Hosts share files, /tmp and process ids.

    this machine     10.77.0.1                  clients only, no daemons
    head             10.77.0.10                 munged, mariadbd, slurmdbd, slurmctld
    n1, n2           10.77.0.11, 10.77.0.12     slurmd, and the jobs
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BRIDGE, BRIDGE_ADDRESS = "symbench0", "10.77.0.1"
NODES = {"n1": "10.77.0.11", "n2": "10.77.0.12"}
HOSTS = {"head": "10.77.0.10", **NODES}
HOSTS_FILE, HOSTS_MARK = Path("/etc/hosts"), "# symbench test cluster"
INTERFACES, NAMESPACES = Path("/sys/class/net"), Path("/run/netns")
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
READY = {"idle", "mixed", "allocated", "completing"}
LOCK = Path("/run/symbench-slurm.lock")
PROGRAMS = ("ip", "nsenter", "munged", "mariadb-install-db", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sinfo")
PATIENCE_SECONDS = 60  # on a free machine each daemon answers within one


class ClusterError(Exception):
    """The machine lacks a program, or a command failed."""


@dataclass(frozen=True)
class Daemon:
    """A daemon of the cluster: runs on `host`, logs to log/NAME.log."""

    name: str
    host: str
    command: list[str]
    answers: Callable[[], bool]

    def pids(self) -> list[int]:
        return pids_on(self.host, self.command[0])


def daemons(root: Path) -> list[Daemon]:
    """All daemons in starting order. The controller needs a running slurmdbd for accounting."""
    munge, mysql = f"{root}/munge/socket", f"{root}/run/mysql.socket"
    munged = f"munged --foreground --force --socket={munge} --pid-file={root}/run/munged.pid"
    munged += f" --key-file={root}/munge/key --seed-file={root}/munge/seed"
    mariadbd = f"mariadbd --no-defaults --user=root --skip-networking --datadir={root}/mysql"
    mariadbd += f" --socket={mysql} --pid-file={root}/run/mariadbd.pid"

    return [
        Daemon("munged", "head", munged.split(), lambda: client(root, "munge", f"--socket={munge}", "-n") != ""),
        Daemon("mariadbd", "head", mariadbd.split(), lambda: accepts(mysql)),
        Daemon("slurmdbd", "head", ["slurmdbd"], lambda: client(root, "sacctmgr", "show", "stats") != ""),
        Daemon("slurmctld", "head", ["slurmctld"], lambda: "is UP" in client(root, "scontrol", "ping")),
        Daemon("slurmd-n1", "n1", ["slurmd", "-N", "n1"], lambda: node_state("n1", root) in READY),
        Daemon("slurmd-n2", "n2", ["slurmd", "-N", "n2"], lambda: node_state("n2", root) in READY),
    ]


def client_environment(root: Path) -> dict[str, str]:
    return {"SLURM_CONF": f"{root}/etc/slurm.conf"}


def node_state(node: str, root: Path) -> str:
    return client(root, "sinfo", "--noheader", "--Node", "--partition=main", f"--nodes={node}", "--format=%T")


def is_up(root: Path) -> bool:
    """Whether both nodes and accounting are ready. Uses client commands only, so it needs no root."""
    if not (INTERFACES / BRIDGE).exists():  # sinfo would ask another cluster
        return False
    states = client(root, "sinfo", "--noheader", "--Node", "--format=%T").split()
    if len(states) < len(NODES) or not READY.issuperset(states):
        return False
    return client(root, "sacctmgr", "--noheader", "show", "cluster", "format=ControlHost") == HOSTS["head"]


def up(root: Path) -> bool:
    """Start the daemons that do not run. Returns whether one had to be started."""
    make_files(root)
    make_network(root)
    for node in NODES:
        if "drain" in node_state(node, root):  # after an error, until an administrator resumes it
            client(root, "scontrol", "update", f"NodeName={node}", "State=RESUME")
    started = False
    for daemon in daemons(root):
        if not (daemon.pids() and daemon.answers()):
            start(daemon, root)
            started = True
    wait_until(lambda: is_up(root), "sinfo has no two ready nodes, or sacct no cluster", root / "log/slurmctld.log")
    return started


def down(root: Path) -> None:
    """Kill all daemons and delete the network and all files but the logs."""
    for host in reversed(HOSTS):
        while pids := pids_on(host):
            kill(pids)
            time.sleep(0.05)
        if (INTERFACES / cable(host)).exists():  # that of a deleted namespace would go a while later, under a next `up`
            run("ip", "link", "delete", cable(host))
        if (NAMESPACES / host).exists():
            run("ip", "netns", "delete", host)
    if (INTERFACES / BRIDGE).exists():
        run("ip", "link", "delete", BRIDGE)
    for node in NODES:  # killed jobs leave their cgroups
        for group, _, _ in os.walk(MEMORY_CGROUPS / f"slurm_{node}", topdown=False):
            with suppress(OSError):  # the kernel still uses it
                Path(group).rmdir()
    write_hosts([])
    for folder in ("etc", "gpus", "munge", "mysql", "mysql.part", "run", "spool", "state"):
        shutil.rmtree(root / folder, ignore_errors=True)


def make_files(root: Path) -> None:
    for folder in ("etc", "gpus", "log", "munge", "run", "spool/n1", "spool/n2", "state"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for gpu in (root / "gpus/gpu0", root / "gpus/gpu1"):
        if not gpu.is_symlink():
            gpu.symlink_to("/dev/null")
    for template in (HERE / "etc").glob("*.conf"):
        path = root / "etc" / template.name
        path.touch(mode=0o600 if path.name == "slurmdbd.conf" else 0o644)  # slurmdbd refuses what others can read
        text = template.read_text(encoding="utf-8").replace("@ROOT@", str(root)).replace("@TASK_PLUGIN@", task_plugin())
        path.write_text(text, encoding="utf-8")
    key = root / "munge" / "key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
    if not (root / "mysql").exists():
        part = root / "mysql.part"
        shutil.rmtree(part, ignore_errors=True)
        options = ("--auth-root-authentication-method=socket", "--skip-test-db", "--user=root")
        run("mariadb-install-db", "--no-defaults", *options, f"--datadir={part}")
        part.rename(root / "mysql")


def task_plugin() -> str:
    """Plugin that enforces memory limits where the machine has cgroups of version 1."""
    return "task/cgroup" if (MEMORY_CGROUPS / "memory.limit_in_bytes").exists() else "task/none"


def cable(host: str) -> str:
    """Name of the end outside of the link to a host."""
    return f"symbench-{host}"


def make_network(root: Path) -> None:
    """Make the bridge, a namespace for each host, and their names; bring all links up."""
    if not (INTERFACES / BRIDGE).exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "up", "alias", str(root))
    run("ip", "address", "replace", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE)
    for host, address in HOSTS.items():
        if not (NAMESPACES / host).exists():
            run("ip", "netns", "add", host)
        if not (INTERFACES / cable(host)).exists():
            run("ip", "link", "add", cable(host), "type", "veth", "peer", "name", "eth0", "netns", host)
        run("ip", "link", "set", cable(host), "up", "master", BRIDGE)
        run("ip", "-n", host, "address", "replace", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", host, "link", "set", link, "up")
    write_hosts([f"{address} {host}" for host, address in HOSTS.items()])


def write_hosts(entries: list[str]) -> None:
    """Replace our entries in /etc/hosts, in place: in a container the file is a mount and cannot be renamed."""
    before = HOSTS_FILE.read_text(encoding="utf-8").splitlines()
    after = [line for line in before if not line.endswith(HOSTS_MARK)] + [f"{entry} {HOSTS_MARK}" for entry in entries]
    if after != before:
        HOSTS_FILE.write_text("".join(f"{line}\n" for line in after), encoding="utf-8")


def start(daemon: Daemon, root: Path) -> None:
    """Start the daemon and wait until it answers; kill a hanging one first."""
    kill(daemon.pids())
    log = root / "log" / f"{daemon.name}.log"
    # `ip netns exec` would mount a /sys in which slurmd finds no cgroup; nsenter keeps the real one.
    enter = ("nsenter", f"--net={NAMESPACES / daemon.host}", "unshare", "--uts")
    shell = ("sh", "-c", f'hostname {daemon.host} && exec "$@"', "sh")
    # Batch jobs inherit slurmd's environment, so it gets nothing of this process.
    environment = {"PATH": os.environ["PATH"], "MYSQL_UNIX_PORT": f"{root}/run/mysql.socket"} | client_environment(root)
    with log.open("ab") as out:
        process = subprocess.Popen(
            (*enter, *shell, *daemon.command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def serves() -> bool:
        if process.poll() is not None and not daemon.pids():  # SLURM's daemons fork into the background
            raise ClusterError(f"{daemon.name} ended; {tail(log)}")
        return daemon.answers()

    wait_until(serves, f"{daemon.name} does not answer", log)


def wait_until(condition: Callable[[], bool], complaint: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{complaint} (waited {PATIENCE_SECONDS} s); {tail(log)}")
        time.sleep(0.1)


def tail(log: Path) -> str:
    return "\n".join([f"the end of {log}:", *log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]])


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def client(root: Path, *command: str) -> str:
    """Output of a SLURM command; empty if it fails or times out."""
    environment = os.environ | client_environment(root)
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=10, check=False)
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


def pids_on(host: str, program: str | None = None) -> list[int]:
    done = subprocess.run(("ip", "netns", "pids", host), capture_output=True, text=True, check=False)
    pids = []
    for pid in done.stdout.split():
        with suppress(OSError):  # it has ended
            if program in (None, Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()):
                pids.append(int(pid))
    return pids


def pids_of(name: str, root: Path) -> list[int]:
    """Process ids of one daemon, or of all processes on a host of the cluster."""
    by_name = {daemon.name: daemon.pids for daemon in daemons(root)}
    if name not in by_name and name not in HOSTS:
        raise ClusterError(f"pids: unknown name {name} (valid: {', '.join((*by_name, *HOSTS))})")
    return pids_on(name) if name in HOSTS else by_name[name]()


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def check_machine(root: Path) -> None:
    if os.geteuid() != 0:
        raise ClusterError("needs root, for network namespaces and SLURM's daemons")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise ClusterError(f"{', '.join(missing)} not found; install the packages in {HERE / 'packages.txt'}")
    alias = INTERFACES / BRIDGE / "ifalias"
    owner = alias.read_text(encoding="utf-8").strip() if alias.exists() else ""
    if owner not in ("", str(root)):
        raise ClusterError(f"this machine already runs a cluster; `down --root {owner}` stops it")


def main() -> int:
    parser = argparse.ArgumentParser(description="A real SLURM of two nodes on this machine.")
    parser.add_argument("command", choices=("up", "status", "down", "pids"))
    parser.add_argument("name", nargs="?", help="for pids: slurmctld, slurmdbd, slurmd-n1, ..., or head, n1, n2")
    default = Path(os.environ.get("SYMBENCH_SLURM_ROOT", Path(tempfile.gettempdir()) / "symbench-slurm"))
    parser.add_argument("--root", type=Path, default=default, help=f"folder of its files (default: {default})")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.command == "status":
        if not is_up(root):
            print("not running")
            return 1
        print("running")
    elif arguments.command == "pids":
        print(*pids_of(arguments.name, root))
        return 0
    else:
        check_machine(root)
        with LOCK.open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if arguments.command == "down":
                down(root)
                print("stopped")
                return 0
            print("started" if up(root) else "already running")
    for name, value in client_environment(root).items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ClusterError, OSError) as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        sys.exit(3)

"""A Slurm cluster of two nodes on this host, from Debian's packages: munge, slurmctld, and a slurmd for each node.

Each node has a host name of its own, which takes a namespace, and so root.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.node.processes import kill_all, pids_with_environment, tree_of
from tests.orchestrator.node.waiting import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "unshare")
NODES = {"braid-one": "127.0.0.1", "braid-two": "127.0.0.2"}
MARK = "BRAID_TEST_OF_SLURM"
SHOWN = 3000
START_NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts && exec slurmd -D'
CONFIGURATION = """
ClusterName=braid
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1
SlurmdTimeout=10
KillWait=120
ReturnToService=2
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing() -> str:
    """Why this machine can't play a Slurm cluster; "" where it can."""
    if os.geteuid() != 0:
        return "needs root"
    without = [program for program in PROGRAMS if shutil.which(program) is None]
    if without:
        return f"needs {', '.join(without)}: apt-get install slurmctld slurmd slurm-client munge"
    tried = subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True, check=False)
    return "needs the right to make namespaces" if tried.returncode else ""


@dataclass
class Slurm:
    directory: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """By program, those of nodes by the node."""

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state_of(self, job: str) -> str:
        """Slurm's word, such as RUNNING."""
        return self.ask("scontrol", "--oneliner", "show", "job", job).split("JobState=")[1].split()[0]

    def start_node(self, node: str) -> None:
        command = ["unshare", "--uts", "--mount", "sh", "-c", START_NODE, "sh", node, str(self.directory / "hosts")]
        self._start(node, command, self.environment | {"BRAID_TEST_NODE": node})

    def kill_node(self, node: str) -> None:
        """Like a power cut."""
        assert kill_all(lambda: self._processes(BRAID_TEST_NODE=node, SLURMD_NODENAME=node)) == []
        self.daemons.pop(node).wait()

    def start(self) -> None:
        (self.directory / "munge.key").touch(mode=0o600)
        (self.directory / "munge.key").write_bytes(os.urandom(1024))
        (self.directory / "state").mkdir()
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{address} {node}\n" for node, address in NODES.items()))
        nodes = "\n".join(f"NodeName={node} NodeAddr={address} Port={free_port()} CPUs=2" for node, address in NODES.items())
        (self.directory / "slurm.conf").write_text(CONFIGURATION.format(directory=self.directory, port=free_port(), nodes=nodes))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.directory}/munge.{name}" for option, name in files.items()]
        self._start("munged", ["munged", "--foreground", "--force", *options], self.environment)
        wait_for((self.directory / "munge.socket").exists, "munged")
        self._start("slurmctld", ["slurmctld", "-D", "-i"], self.environment)
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self._is_idle(), "the nodes")

    def stop(self) -> None:
        """Kills every process of it, and of its jobs."""
        assert kill_all(lambda: self._processes()) == []
        for daemon in self.daemons.values():
            daemon.wait()

    def _is_idle(self) -> bool:
        done = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.split() == ["idle", str(len(NODES))]

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.directory / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _processes(self, **marks: str) -> set[int]:
        """All, or those that began with one of the variables, and what descends from them."""
        roots = set(pids_with_environment(MARK, str(self.directory)))
        roots &= {pid for mark in marks.items() for pid in pids_with_environment(*mark)} if marks else roots
        return {pid for root in roots for pid in tree_of(root)}


@contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """Its files are in a place of their own: munge wants no directory above its socket that others may write to or can't enter."""
    with tempfile.TemporaryDirectory(prefix="braid-slurm-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        slurm = Slurm(directory, os.environ | {MARK: name, "SLURM_CONF": f"{name}/slurm.conf"})
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
            for out in sorted(directory.glob("*.out")):  # shown where the test fails
                print(f"--- {out.name}", out.read_text(errors="replace")[-SHOWN:], sep="\n")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port

"""A real S3 server on loopback: one Ceph monitor, one OSD and one RADOS gateway, from Debian's packages. For demos and integration tests.

Needs root and: apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0

CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:{host}:{monitor_port},v1:{host}:{old_monitor_port}]
public addr = {host}
cluster addr = {host}
keyring = {directory}/keyring
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
run dir = {directory}
log file = {directory}/$name.log
admin socket =
mon cluster log file = {directory}/cluster.log
[mon]
mon data = {directory}/mon
[osd]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
[client.rgw]
rgw data = {directory}/rgw
rgw frontends = beast endpoint={host}:{gateway_port} tcp_nodelay=1
rgw thread pool size = 64
debug rgw = 0/0
rgw dns name = {host}
"""


class CephError(Exception):
    """Ceph can't be started here. The message is one line with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CephServer:
    """A running gateway, and the credentials of its only user. Its objects live in memory and end with it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    daemons: tuple[subprocess.Popen[bytes], ...]
    """The gateway's processes and those it needs, in the order in which they were started."""

    def __repr__(self) -> str:
        return f"CephServer({self.endpoint_url})"

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(daemon.pid for daemon in self.daemons)

    def stop(self) -> None:
        """Ends the daemons, the gateway first. May be called twice."""
        _stop(self.daemons)


@dataclass(frozen=True, slots=True)
class Tools:
    """Runs Ceph's programs for the cluster whose files are in one directory."""

    directory: Path

    def run(self, *command: str) -> bytes:
        """What the program wrote to stdout. Raises CephError where it fails or takes too long."""
        try:
            return subprocess.run(command, check=True, capture_output=True, timeout=START_TIMEOUT_S).stdout
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            last_line = (error.stderr or b"").decode(errors="replace").strip().rpartition("\n")[2]
            raise CephError(f"{command[0]} failed in {self.directory}: {last_line or type(error).__name__}; see the logs there") from error

    def succeeds(self, *command: str) -> bool:
        """Whether the program ended within ten seconds and without an error."""
        try:
            return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def daemon(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a daemon in the foreground, in a session of its own so that a Ctrl-C meant for us doesn't reach it before we stop it."""
        with (self.directory / f"{command[0]}.out").open("ab") as output:
            return subprocess.Popen(
                [*command, "-f"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def config(self) -> tuple[str, str]:
        """The arguments that name the cluster's configuration to every program."""
        return ("-c", str(self.directory / "ceph.conf"))


def why_not_ceph() -> str:
    """The reason why no gateway can be started here, with its remedy; empty where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found; as root: apt-get install -y --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "Ceph's daemons need root; run as root, or use another store"
    return ""


def start_ceph(directory: Path) -> CephServer:
    """Starts a fresh gateway, in ten seconds or so. All its files are in `directory`, which must be empty or new. Raises CephError."""
    reason = why_not_ceph()
    if reason:
        raise CephError(reason)
    directory = directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        raise CephError(f"{directory}: is not empty; give a new directory")
    for part in ("mon", "osd", "rgw"):
        (directory / part).mkdir(parents=True)
    monitor_port, old_monitor_port, gateway_port = _free_ports(3)
    fsid = str(uuid.uuid4())
    tools = Tools(directory)
    config = CONFIG.format(
        fsid=fsid,
        host=HOST,
        monitor_port=monitor_port,
        old_monitor_port=old_monitor_port,
        gateway_port=gateway_port,
        directory=directory,
    )
    (directory / "ceph.conf").write_text(config, encoding="utf-8")
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _start_monitor(tools, daemons, f"[v2:{HOST}:{monitor_port},v1:{HOST}:{old_monitor_port}]", fsid)
        _start_osd(tools, daemons)
        return _start_gateway(tools, daemons, f"http://{HOST}:{gateway_port}")
    except BaseException:
        _stop(daemons)
        raise


def _start_monitor(tools: Tools, daemons: list[subprocess.Popen[bytes]], address: str, fsid: str) -> None:
    keyring, monitor_map = str(tools.directory / "keyring"), str(tools.directory / "monmap")
    tools.run("ceph-authtool", keyring, "-C", "-n", "mon.", "--gen-key", "--cap", "mon", "allow *")
    tools.run("ceph-authtool", keyring, "-n", "client.admin", "--gen-key", "--cap", "mon", "allow *", "--cap", "osd", "allow *")
    tools.run("ceph-authtool", keyring, "-n", "client.rgw", "--gen-key", "--cap", "mon", "allow *", "--cap", "osd", "allow *")
    tools.run("ceph-authtool", keyring, "-n", "osd.0", "--gen-key", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
    tools.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monitor_map)
    tools.run("ceph-mon", *tools.config, "--mkfs", "-i", "a", "--monmap", monitor_map, "--keyring", keyring)
    daemons.append(tools.daemon("ceph-mon", *tools.config, "-i", "a"))
    _wait_until(lambda: tools.succeeds("ceph", *tools.config, "--connect-timeout", "2", "-s"), daemons, "the monitor", tools.directory)


def _start_osd(tools: Tools, daemons: list[subprocess.Popen[bytes]]) -> None:
    osd_id = str(uuid.uuid4())
    tools.run("ceph", *tools.config, "osd", "new", osd_id)
    tools.run("ceph-osd", *tools.config, "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    daemons.append(tools.daemon("ceph-osd", *tools.config, "-i", "0"))


def _start_gateway(tools: Tools, daemons: list[subprocess.Popen[bytes]], endpoint_url: str) -> CephServer:
    daemons.append(tools.daemon("radosgw", *tools.config, "-n", "client.rgw"))
    _wait_until(lambda: _answers(endpoint_url), daemons, "the gateway", tools.directory)
    user = json.loads(tools.run("radosgw-admin", *tools.config, "user", "create", "--uid=braid", "--display-name=braid"))
    keys = user["keys"][0]
    return CephServer(endpoint_url=endpoint_url, access_key=keys["access_key"], secret_key=keys["secret_key"], daemons=tuple(daemons))


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def _wait_until(is_ready: Callable[[], bool], daemons: Sequence[subprocess.Popen[bytes]], what: str, directory: Path) -> None:
    gives_up_at_s = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        if time.monotonic() > gives_up_at_s or any(daemon.poll() is not None for daemon in daemons):
            raise CephError(f"{what} of Ceph did not start; see the logs in {directory}")
        time.sleep(0.1)


def _stop(daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

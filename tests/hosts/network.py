"""Two hosts on one machine: network namespaces with an address each, joined by a cable.

Open MPI starts its daemon on the second host by an agent, a script that enters the namespace; no
ssh is needed. Each host has a name of its own. Needs root, iproute2 and Open MPI.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from tests.support.mpi import HPCNK, Job, mpirun

NAMES = ("a", "b")
SUBNET = "10.231.7"
# Seconds that a connection may be silent, between two questions, and questions without an answer.
KEEPALIVE = {"time": 2, "intvl": 1, "probes": 3}
NOTICED = 2 + 1 * 3  # seconds after which Open MPI takes a host for gone

AGENT = """#!/bin/sh
# Called by mpirun with an address and a command, as ssh would be.
[ "$1" = {address} ] || exit 1
shift
exec ip netns exec {namespace} unshare --uts --mount sh -c "hostname {name}; {prepare} $*"
"""


def missing() -> str:
    """What this machine lacks for two hosts, empty if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = [tool for tool in ("ip", "unshare", "hostname") if not shutil.which(tool)]
    if tools:
        return f"{' and '.join(tools)} not found (Debian: iproute2, util-linux, hostname)"
    launcher = mpirun()
    if launcher is None:
        return "there is no mpirun"
    said = subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout
    if "Open MPI) 4" not in said:
        return f"the agent and the parameters are those of Open MPI 4, not of {said[:40].strip()}"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "making network namespaces is not allowed here"
    return ""


def _ip(*arguments: object) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True)


class TwoHosts:
    """The hosts, from `up` to `down`."""

    def __init__(self) -> None:
        self.namespaces = [f"hpcnk-{os.getpid()}-{name}" for name in NAMES]
        self.addresses = [f"{SUBNET}.1", f"{SUBNET}.2"]
        self._cables = [f"hk{os.getpid()}{name}" for name in NAMES]
        self._scratch = Path(tempfile.mkdtemp(prefix="hpcnk-hosts-"))

    def up(self) -> None:
        """Make the namespaces and the cable."""
        for namespace in self.namespaces:
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        (one, other), (cable, end) = self.namespaces, self._cables
        _ip("link", "add", cable, "netns", one, "type", "veth", "peer", "name", end, "netns", other)
        for namespace, link, address in zip(
            self.namespaces, self._cables, self.addresses, strict=True
        ):
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", link)
        self.join()

    def join(self) -> None:
        """Plug the cable in."""
        for namespace, link in zip(self.namespaces, self._cables, strict=True):
            _ip("-n", namespace, "link", "set", link, "up")

    def cut(self) -> None:
        """Pull the cable: nothing is refused, nothing is answered."""
        _ip("-n", self.namespaces[1], "link", "set", self._cables[1], "down")

    def start(self, *arguments, prepare="", limit=60, environment=None) -> Job:
        """Start hpcnk on two ranks of each host; `prepare` is a shell command for the second."""
        one, other = self.addresses
        subnet = f"{SUBNET}.0/24"
        parameters = {
            "plm_rsh_agent": self._agent(prepare),
            "btl": "tcp,self",
            "btl_tcp_if_include": subnet,
            "oob_tcp_if_include": subnet,
            **{f"oob_tcp_keepalive_{name}": value for name, value in KEEPALIVE.items()},
        }
        options = [word for name, value in parameters.items() for word in ("--mca", name, value)]
        command = [mpirun(), "--host", f"{one}:2,{other}:2", "-n", "4", *options, *HPCNK]
        text = f"hostname host-a; exec {shlex.join(map(str, [*command, *arguments]))}"
        inside = ["ip", "netns", "exec", self.namespaces[0], "unshare", "--uts", "sh", "-c", text]
        scratch = {"TMPDIR": str(self._scratch)}
        return Job(0, inside, limit=limit, environment={**scratch, **(environment or {})})

    def _agent(self, prepare: str) -> Path:
        path = self._scratch / "agent"
        names = {"address": self.addresses[1], "namespace": self.namespaces[1], "name": "host-b"}
        path.write_text(AGENT.format(prepare=f"{prepare};" if prepare else "", **names))
        path.chmod(0o755)
        return path

    def processes(self) -> list[psutil.Process]:
        """All processes on both hosts."""
        found = []
        for namespace in self.namespaces:
            said = subprocess.run(
                ["ip", "netns", "pids", namespace], capture_output=True, text=True
            )
            for number in said.stdout.split():
                if psutil.pid_exists(int(number)):
                    found.append(psutil.Process(int(number)))
        return found

    def wait_empty(self, seconds: float) -> list[psutil.Process]:
        """Wait until nothing runs on either host; return what still does after so long."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def down(self) -> None:
        """Kill what runs on the hosts, and remove all that `up` has made; can be called always."""
        for process in self.processes():
            process.kill()
        self.wait_empty(10)
        for namespace in self.namespaces:  # the cable goes with them
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

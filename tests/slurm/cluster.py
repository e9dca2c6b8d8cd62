"""A throw-away Slurm of one node: munged, slurmctld and slurmd in a folder of their own.

No systemd, no control groups, no database, no file outside the folder; ports and munge's socket are
its own, so that it disturbs no other Slurm. It needs root, for slurmd starts jobs as their users.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.support.mpi import mpirun

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "setpriv")
PMIX = "slurm*/mpi_pmix*.so"
GPUS = 4
REQUEUE_SECONDS = 5  # Slurm lets a requeued job wait as long as a credential lives

# What the node claims to have: enough for the shipped headers, whatever this machine has.
NODE = f"CPUs=128 RealMemory=500000 Gres=gpu:a100:{GPUS}"

CONFIGURATION = f"""
ClusterName=throwaway
SlurmctldHost={{host}}(127.0.0.1)
SlurmctldPort={{controller_port}}
SlurmdPort={{node_port}}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={{folder}}/munge.socket,cred_expire={REQUEUE_SECONDS}
CredType=cred/munge
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/spool
TmpFS={{folder}}/tmp
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/slurmd.pid
SlurmctldLogFile={{folder}}/slurmctld.log
SlurmdLogFile={{folder}}/slurmd.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
GresTypes=gpu
NodeName=one NodeHostname={{host}} NodeAddr=127.0.0.1 Feature=gpu {NODE}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=ALL MaxTime=UNLIMITED State=UP
PartitionName=main Default=YES PriorityTier=10 GraceTime=30
PartitionName=urgent PriorityTier=20
PartitionName=booster
PartitionName=gpumedium
"""


def absence() -> str:
    """Why no Slurm can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "not root: slurmd must be"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"Slurm is not installed, {', '.join(missing)} missing: apt-get install slurm-wlm"
    if not list(Path("/usr/lib").glob(f"*/{PMIX}")):
        return "this Slurm has no PMIx plugin"
    done = subprocess.run([mpirun() or "false", "--version"], capture_output=True, text=True)
    if "Open MPI" not in done.stdout:
        return "the MPI of the tests is not Open MPI, so it need not understand Slurm's PMIx"
    return "" if _can_make_devices() else "this root may not make device files, for fake GPUs"


def _can_make_devices() -> bool:
    """Whether `mknod` is allowed; in some containers it is not."""
    with TemporaryDirectory() as folder, suppress(PermissionError):
        _make_device(Path(folder, "nv0"), 0)
        return True
    return False


def _make_device(path: Path, number: int) -> None:
    """Make a device file with the numbers of a real GPU's; nobody opens it."""
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(195, number))


@dataclass(frozen=True)
class Job:
    """What scontrol says of a job."""

    fields: dict[str, str]

    @property
    def state(self) -> str:
        return self.fields["JobState"]

    @property
    def code(self) -> int:
        """The batch script's exit code; that of a signal is negative."""
        code, _, number = self.fields["ExitCode"].partition(":")
        return int(code) or -int(number)

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED")


class Cluster:
    """The daemons, and what a user does with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start all and wait until the node is idle."""
        self._configure()
        munge = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={self.folder / _munge(name)}" for name in munge]
        self._daemon("munged", "--foreground", "--force", *files)  # no one but root uses its socket
        self.until((self.folder / "munge.socket").exists, "socket of munge", 20)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "one")
        self.until(lambda: self("sinfo", "-h", "-o", "%T", check=False) == "idle", "idle node", 30)

    def stop(self) -> None:
        """End jobs, then daemons, then whatever is left of them."""
        self("scancel", "--full", "--user=root", check=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def __call__(self, *command: object, check: bool = True, **environment: str) -> str:
        """Run a client command and return what it prints."""
        done = subprocess.run(
            [*map(str, command)],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str, **environment: str) -> str:
        """Submit a script from its folder; return the job's number."""
        command = ("sbatch", "--parsable", f"--chdir={script.parent}", *options, script)
        shared = {"OMPI_MCA_btl_vader_backing_directory": str(self.folder / "shared")}
        return self(*command, **shared, **environment)

    def job(self, number: str) -> Job:
        """Ask for a job, or one task of an array."""
        text = self("scontrol", "show", "job", number)
        return Job(dict(re.findall(r"(\w+)=(\S*)", text)))

    def ranks(self, number: str) -> list[psutil.Process]:
        """The Python processes of a running job's steps."""
        return [
            process
            for process in self._processes(SLURM_JOB_ID=self.job(number).fields["JobId"])
            if "python" in process.name()
        ]

    def wait(self, number: str, seconds: float = 120) -> Job:
        """Wait for a job's end."""
        self.until(lambda: self.job(number).over, f"end of job {number}", seconds)
        return self.job(number)

    def until(self, condition, what: str, seconds: float = 60) -> None:
        """Ask again and again. Fails the test, with the logs' ends, when it lasts too long."""
        end = time.monotonic() + seconds
        while not condition():
            dead = [daemon.args[3] for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                raise AssertionError(f"no {what} in {seconds} s; ended: {dead}\n{self._logs()}")
            time.sleep(0.1)

    def _configure(self) -> None:
        # The last one is Open MPI's, for `stop` to remove.
        for name in ("state", "spool", "tmp", "shared"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        controller, node = _free_ports(2)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().partition(".")[0],
            controller_port=controller,
            node_port=node,
        )
        (self.folder / "slurm.conf").write_text(text)
        for number in range(GPUS):
            _make_device(self.folder / f"nv{number}", number)
        files = f"{self.folder}/nv[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName=one Name=gpu Type=a100 File={files}\n")

    def _daemon(self, *command: str) -> None:
        """Start a daemon that gets SIGTERM should this process die before `stop`."""
        with (self.folder / f"{command[0]}.out").open("w") as output:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *command],
                    env={**os.environ, **self.environment},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=self.folder,
                    start_new_session=True,
                )
            )

    def _processes(self, **environment: str) -> list[psutil.Process]:
        """Processes that were started with this Slurm's configuration, and with these variables."""
        wanted, found = {**self.environment, **environment}.items(), []
        for process in psutil.process_iter():
            try:
                if wanted <= process.environ().items():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def _logs(self) -> str:
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs)


def _munge(option: str) -> str:
    return f"munge.{option.removesuffix('-file')}"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

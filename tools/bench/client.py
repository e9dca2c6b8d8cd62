"""The other end of a worker process: start it on given cores, ask it, stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from tools.bench.channel import neutral
from tools.bench.machine import ROOT, pin

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(Exception):
    """A worker answered with an error, or died. `kind` is the class of its exception."""

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(what)
        self.what = what
        self.kind = kind


class Client:
    """One worker process; started again after it has died."""

    def __init__(self, command: list[str], cores: list[int], environment: dict[str, str]) -> None:
        self.cores = cores
        self._command = command
        self._environment = {**os.environ, **_threads(len(cores)), **environment}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def ask(self, do: str, **options: Any) -> Any:
        """Send a request and wait for its answer. Raises WorkerError."""
        self.send(do, **options)
        return self.receive()

    def send(self, do: str, **options: Any) -> None:
        """Send a request without waiting; starts the process if none runs."""
        if not self.alive:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **options}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._dead() from None

    def receive(self) -> Any:
        """Wait for the answer to the last request. Raises WorkerError."""
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer["type"])
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()
        self._process = None

    def _start(self) -> None:
        self.stop()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            preexec_fn=lambda: pin(self.cores),
        )

    def _dead(self) -> WorkerError:
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        last = next((line for line in reversed(self._errors.readlines()) if line.strip()), "")
        return WorkerError(neutral(f"the process ended with status {status}; {last}"), "Dead")


def _threads(count: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(count))


def engine_client(cores: list[int]) -> Client:
    """hpcnk's engine on some cores, one thread on each."""
    return Client([sys.executable, "-m", "tools.bench.engine_worker"], cores, {})


def peer_client(python: str, cores: list[int], backend: str, dtype: str) -> Client:
    """Neural Tangents under another Python on some cores, or on the GPU that its JAX sees."""
    environment = {
        "JAX_ENABLE_X64": str(int(dtype == "float64")),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if backend == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    if len(cores) == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    # The path of a virtual environment's Python is a link, which must not be followed.
    command = [os.path.abspath(python), "-m", "tools.bench.peer_neural_tangents"]
    return Client(command, cores, environment)

"""An allocation of Slurm on one machine: `srun` and `scontrol` of ours, and the script as a job in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.cluster.kubernetes.manifests import FOLDER
from tests.cluster.processes import kill_processes, list_processes

# Runs the command once for every node that is named, and hands a SIGTERM on, as Slurm's own does.
SRUN = """#!/bin/bash
echo "srun $*" >> "$SLURM_LOG"
while [[ "$1" == --* ]]; do
  case "$1" in --nodelist=*) names="${1#*=}" ;; esac
  shift
done
trap 'kill -TERM "${tasks[@]}" 2>/dev/null' TERM
for name in ${names//,/ }; do
  SLURMD_NODENAME="$name" "$@" &
  tasks+=("$!")
done
code=0
for task in "${tasks[@]}"; do
  while kill -0 "$task" 2>/dev/null; do wait "$task"; done
  wait "$task" || code=$?
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$SLURM_LOG"
if [[ "$1" == show ]]; then printf '%s\\n' node1 node2; fi
"""


class Allocation:
    """Two nodes of Slurm, and the script that runs on them; `log` has what it asked of Slurm."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        """`ray_folder` is where Ray keeps its sockets, which want a short path."""
        self.folder = folder
        self._ray_folder = ray_folder
        self._log = folder / "slurm.log"
        self._log.touch()
        for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / name).write_text(content)
            (folder / name).chmod(0o700)

    @property
    def log(self) -> list[str]:
        """Commands of Slurm that were called, in order."""
        return self._log.read_text().splitlines()

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """The script with these arguments, as a job of this allocation; `variables` of the environment, too."""
        environment = {
            "PATH": f"{self.folder}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "SLURM_JOB_ID": self.job_id,
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_LOG": str(self._log),
            "T5ENC_JOIN_SECONDS": "100",
            "RAY_TMPDIR": str(self._ray_folder),
        } | variables
        command = ["bash", str(FOLDER / "slurm.sh"), *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder
        )

    @property
    def job_id(self) -> str:
        """A number that no other allocation here has at the time."""
        return f"{os.getpid()}{abs(hash(self.folder)) % 1000}"

    def list_scraped(self) -> list[str]:
        """Addresses that Ray tells Prometheus of, where prometheus.yml looks."""
        (target,) = json.loads((self._ray_folder / "ray" / "prom_metrics_service_discovery.json").read_text())
        return list(target["targets"])

    def replace(self, program: str, script: str) -> None:
        """Put a script in a program's place."""
        (self.folder / program).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / program).chmod(0o700)

    def processes(self) -> list[psutil.Process]:
        """What runs on the nodes for this job."""
        return list_processes("SLURM_JOB_ID", self.job_id)

    def kill(self) -> None:
        """End what is left of the job."""
        kill_processes("SLURM_JOB_ID", self.job_id)

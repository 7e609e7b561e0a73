#!/bin/bash
# `t5enc encode` on a Slurm allocation, of any size: sbatch [options] cluster/slurm.sh --config job.yaml
# Whatever ends the job (its time, preemption, a dead node), the next run goes on where it was: submit it again, or let
# Slurm do so. The environment that has t5enc must be on PATH when the job is submitted, and lie where all nodes see it.
#SBATCH --job-name=t5enc
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# shellcheck disable=SC2317  # what traps and wait_for call
set -euo pipefail

# How long nodes may take to join, in seconds: a shared file system is slow when it is cold.
readonly PATIENCE="${T5ENC_JOIN_SECONDS:-300}"
# Every process of Ray asks the others for this job's token; other users of the nodes do not have it.
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Ray's sockets lie below TMPDIR, which is often a job's own and too long: the path of a socket has 107 bytes.
temporary="${TMPDIR:-/tmp}"
if ((${#temporary} > 36)); then export RAY_TMPDIR="${RAY_TMPDIR:-/tmp}"; fi

started=()
driver=""
wants_requeue=false

# The driver ends, and what it has committed is kept; before there is one, so does the script.
stop() {
  if [[ -z "$driver" ]]; then exit 1; fi
  kill -TERM "$driver" 2>/dev/null || true
}

clean_up() {
  local code="$?" pid
  trap '' USR1 TERM INT
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait
  if $wants_requeue && ((code != 0)); then scontrol requeue "$SLURM_JOB_ID"; fi
}

# USR1: the allocation's time is nearly up, and the job comes back. After TERM (scancel, preemption) Slurm decides that.
trap 'wants_requeue=true; stop' USR1
trap stop TERM INT
trap clean_up EXIT

# In a subshell only: signals to it then reach srun.
run_on() {
  local nodes="$1"
  shift
  exec srun --nodes="$(wc -w <<<"${nodes//,/ }")" --ntasks-per-node=1 --nodelist="$nodes" --overlap --cpu-bind=none "$@"
}

# Ports that are free: the nodes may run other things. Only tasks and records pass through the object store.
start_ray() {
  local nodes="$1"
  shift
  run_on "$nodes" ray start --block --disable-usage-stats --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 --object-store-memory="$((1 << 30))" "$@" &
  started+=("$!")
}

wait_for() {
  local what="$1" late=$((SECONDS + PATIENCE))
  shift
  until "$@" 2>/dev/null; do
    if ((SECONDS > late)); then
      echo "slurm.sh: expected $what within $PATIENCE seconds, got none" >&2
      exit 1
    fi
    sleep 1
  done
}

has_all_nodes() {
  python - "$address" "${#nodes[@]}" <<'PYTHON'
import sys

import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))
PYTHON
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
# A port that is free, and not one of those that the system hands out by itself, of which another process may get it.
address="$(run_on "$head" python -c '
import random
import socket

import ray

for port in random.sample(range(20000, 32000), 100):
    with socket.socket() as tried:
        if tried.connect_ex(("", port)) != 0:
            print(f"{ray.util.get_node_ip_address()}:{port}")
            break
')"

# The dashboard writes for Prometheus which nodes there are; nobody but this node reaches it.
start_ray "$head" --head --node-ip-address="${address%:*}" --port="${address##*:}" \
  --dashboard-host=127.0.0.1 --dashboard-port=0
wait_for "the head of Ray at $address" ray health-check --address "$address"
if ((${#nodes[@]} > 1)); then
  others="$(IFS=,; echo "${nodes[*]:1}")"
  start_ray "$others" --address="$address"
fi
wait_for "${#nodes[@]} nodes of Ray" has_all_nodes

# A job that comes back goes on: beginning anew was for its first start.
arguments=("$@")
if ((${SLURM_RESTART_COUNT:-0} > 0)); then
  arguments=(--resume)
  for argument in "$@"; do
    if [[ "$argument" != --overwrite ]]; then arguments+=("$argument"); fi
  done
fi
t5enc encode "${arguments[@]}" --ray-address "$address" &
driver="$!"
# A trap ends `wait` early.
while true; do
  code=0
  wait "$driver" || code="$?"
  kill -0 "$driver" 2>/dev/null || break
done

exit "$code"

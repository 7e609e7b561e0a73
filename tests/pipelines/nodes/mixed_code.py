"""A cluster of two nodes, one of which has other code than this process: what a job says, and how it runs if shipped.

Run as a script: a folder to work in, and a folder of the node's packages. Prints a line of JSON for each job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipelines import EncodeJob, encode_parquet
from t5enc.errors import T5encError


def main(folder: str, packages: str) -> None:
    """Both jobs, one after the other; actors fit on the odd node alone."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    try:
        cluster.add_node(
            num_cpus=1, resources={"odd": 1}, object_store_memory=100 << 20, env_vars={"PYTHONPATH": packages}
        )
        for is_shipped in (False, True):
            print(json.dumps(run(Path(folder), cluster.address, is_shipped=is_shipped)), flush=True)
            ray.shutdown()
    finally:
        cluster.shutdown()


def run(folder: Path, address: str, *, is_shipped: bool) -> dict[str, str | int]:
    """What became of a job: captions that were encoded, or the error."""
    job = EncodeJob(
        inputs=[str(folder / "captions")],
        output=str(folder / f"out-{is_shipped}"),
        model="builtin:tiny",
        device="cpu",
        resources={"odd": 1},
        ray_address=address,
        ship_code=is_shipped,
    )
    try:
        return {"encoded": encode_parquet(job).totals["encoded"]}
    except T5encError as error:
        return {"error": type(error).__name__, "said": str(error)}


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The same code on every node: what a process runs, and whether the nodes of a cluster run it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipelines.nodes.selectors import Node, list_nodes
from t5enc.errors import ConfigError, DriverError

CHECK_SECONDS = 120.0
SHOWN_DIFFERENCES = 8
Code = Mapping[str, str]


def _make_reader() -> Callable[[], dict[str, str]]:
    """A function that travels by value: a node that lacks these packages is to say so, not to fail at unpickling."""

    def read_code() -> dict[str, str]:
        import hashlib
        import platform
        from importlib import metadata, util
        from pathlib import Path

        def find_version(package: str) -> str:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                return "not installed"

        digest = hashlib.sha256()
        for package in ("t5enc", "pipelines"):
            spec = util.find_spec(package)
            if spec is None or spec.origin is None:
                return {"t5enc": "not installed", "Python": platform.python_version(), "torch": find_version("torch")}
            root = Path(spec.origin).parent
            for path in sorted(root.rglob("*.py")):
                digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0" + path.read_bytes())
        return {
            "t5enc": f"source {digest.hexdigest()[:12]}",
            "Python": platform.python_version(),
            "torch": find_version("torch"),
        }

    return read_code


# What this process runs: a hash of the source of t5enc and pipelines, and the versions of Python and PyTorch.
read_code = _make_reader()


def compare_code(expected: Code, found: Code) -> dict[str, tuple[str, str]]:
    """What differs, expected and found: the source of t5enc, or the major or minor version of the others."""
    both = {name: (expected[name], found[name]) for name in expected}
    return {name: pair for name, pair in both.items() if _shorten(name, pair[0]) != _shorten(name, pair[1])}


def _shorten(name: str, version: str) -> str:
    return version if name == "t5enc" else ".".join(version.split(".")[:2])


def check_code(expected: Code, place: str) -> None:
    """ConfigError where this process runs other code than `expected`; `place` says where that is."""
    differences = compare_code(expected, read_code())
    if differences:
        raise ConfigError(explain_differences({place: differences}))


def explain_differences(places: Mapping[str, Mapping[str, tuple[str, str]]]) -> str:
    """What differs where, and what to do about it."""
    lines = [
        f"{place}: {name}: expected {expected}, got {found}"
        for place, differences in places.items()
        for name, (expected, found) in differences.items()
    ]
    more = f"\n  and {len(lines) - SHOWN_DIFFERENCES} more" if len(lines) > SHOWN_DIFFERENCES else ""
    shown = "".join(f"\n  {line}" for line in lines[:SHOWN_DIFFERENCES]) + more
    return f"the cluster runs other code than this process; use one image everywhere, or --ship-code for t5enc:{shown}"


def check_nodes(nodes: Sequence[Node], seconds: float = CHECK_SECONDS) -> Code:
    """What all nodes run. ConfigError where one differs from this process, DriverError where a live one is silent."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=1)(read_code)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(): node
        for node in nodes
    }
    expected = read_code()
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    found = {_name(asked[answer]): code for answer in answered if (code := _get_code(answer)) is not None}
    _raise_for_silence([asked[answer] for answer in silent], seconds)
    places = {name: compare_code(expected, code) for name, code in found.items()}
    if any(places.values()):
        raise ConfigError(explain_differences(places))
    return expected


def _name(node: Node) -> str:
    return f"node {node.address} ({node.id[:8]})"


def _get_code(answer: object) -> Code | None:
    """A node's answer, or None where the node has gone since it was listed."""
    import ray

    try:
        return ray.get(answer)  # type: ignore[no-any-return]
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):
        return None


def _raise_for_silence(silent: Sequence[Node], seconds: float) -> None:
    alive = {node.id for node in list_nodes()} if silent else set()
    for node in silent:
        if node.id in alive:
            raise DriverError(f"{_name(node)}: expected an answer within {seconds:.0f} s, got none")

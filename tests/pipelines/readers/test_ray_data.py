"""Ray Data reads an output as it is, in order where it is told to keep one."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.parametrize("release", [version("ray")])
def test_ray_data_sees_the_same_rows_in_the_same_order(release: str, output: Path, captions: list[str]) -> None:
    import ray

    assert ray.__version__ == release
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    try:
        rows = ray.data.read_parquet(str(output / "data")).take_all()
    finally:
        context.execution_options.preserve_order = before
    assert [row["caption"] for row in rows] == captions
    assert set(rows[0]) >= {"text_embedding_bytes", "text_embedding_shape", "text_embedding_source"}

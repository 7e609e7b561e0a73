"""Buckets and tables of relative position, against transformers' own buckets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from t5enc.checkpoint.builtin import open_builtin
from t5enc.model.attention.bias import RelativeBias, bias_between, bucket_distances, saturation_distance

DISTANCES = torch.arange(-1500, 1501)
SIZES = [
    (buckets, distance)
    for buckets in (4, 6, 8, 16, 30, 32, 64, 128)
    for distance in (buckets // 4 + 1, buckets // 2, 20, 64, 128, 200, 1000)
    if distance > buckets // 4
]


@pytest.mark.parametrize(("num_buckets", "max_distance"), SIZES)
def test_buckets_equal_those_of_transformers(num_buckets: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    expected = T5Attention._relative_position_bucket(DISTANCES, True, num_buckets, max_distance)
    found = bucket_distances(DISTANCES, num_buckets=num_buckets, max_distance=max_distance)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("num_buckets", "max_distance"), SIZES)
def test_beyond_saturation_every_distance_has_the_bucket_of_saturation(num_buckets: int, max_distance: int) -> None:
    sizes = {"num_buckets": num_buckets, "max_distance": max_distance}
    reach = saturation_distance(**sizes)
    assert reach <= max_distance
    assert torch.equal(bucket_distances(DISTANCES.clamp(-reach, reach), **sizes), bucket_distances(DISTANCES, **sizes))
    assert bucket_distances(torch.tensor(1 - reach), **sizes) != bucket_distances(torch.tensor(-reach), **sizes)


@pytest.mark.parametrize("bias_per_layer", [False, True])
def test_the_matrix_of_a_table_is_the_bias_of_each_query_and_key(bias_per_layer: bool) -> None:
    config = replace(open_builtin("tiny").config, bias_per_layer=bias_per_layer)
    bias = RelativeBias(config)
    torch.nn.init.normal_(bias.weight)
    tables = bias()
    assert tables.shape == (config.num_biases, config.num_heads, 2 * bias.reach + 1)
    queries, keys = torch.tensor([0, 5, 400]), torch.tensor([0, 4, 6, 130, 399, 900])
    buckets = bucket_distances(
        keys - queries[:, None], num_buckets=config.num_buckets, max_distance=config.max_distance
    )
    for weight, table in zip(bias.weight, tables, strict=True):
        assert torch.equal(bias_between(table, queries, keys), weight[buckets].permute(2, 0, 1))


def test_the_map_of_buckets_is_real_even_where_the_module_is_built_on_meta() -> None:
    config = open_builtin("tiny").config
    with torch.device("meta"):
        bias = RelativeBias(config)
    assert bias.weight.is_meta
    assert torch.equal(bias.get_buffer("buckets"), RelativeBias(config).get_buffer("buckets"))

"""Weights to train from, module by module, as T5 was initialised (Raffel et al. 2020; Mesh TensorFlow).

D model dim, K head dim, H heads, F feed-forward dim. Normal distributions of mean zero and these deviations:

    embedding             1
    queries               1 / sqrt(D K): the 1 / sqrt(K) that T5's attention does not have
                          1 / sqrt(D) where the config has it (`scale_logits`)
    keys, values          1 / sqrt(D)
    attention's output    1 / sqrt(H K)
    up, and gate          1 / sqrt(D)
    down                  1 / sqrt(F)
    bias tables           1 / sqrt(D)

That is 1 / sqrt(inputs) for every linear layer, with a gain for queries. Norm scales are one. `factor` multiplies
everything, as transformers' `initializer_factor` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from t5enc.model.attention.bias import RelativeBias
from t5enc.model.layers import RMSNorm
from t5enc.model.linear import Linear


def initialize(module: nn.Module, factor: float = 1.0) -> bool:
    """Draw a module's own weights; False for a module that is none of the engine's.

    A parameter that transformers has marked as loaded is left alone.
    """
    if isinstance(module, RMSNorm):
        _fill(module.weight, factor)
    elif isinstance(module, Linear):
        _draw(module.weight, [factor * gain * module.in_features**-0.5 for gain in module.gains])
    elif isinstance(module, RelativeBias):
        _draw(module.weight, [factor * module.model_dim**-0.5])
        module.buckets.copy_(module.count_buckets())
    else:
        return False
    return True


def initialize_all(model: nn.Module, factor: float = 1.0) -> None:
    """Draw the weights of every module of an encoder, and its embedding."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=factor)
        initialize(module, factor)


def _is_loaded(parameter: Tensor | None) -> bool:
    return parameter is None or getattr(parameter, "_is_hf_initialized", False)


def _fill(parameter: Tensor | None, value: float) -> None:
    if parameter is not None and not _is_loaded(parameter):
        nn.init.constant_(parameter, value)


def _draw(parameter: Tensor, deviations: Sequence[float]) -> None:
    """Each of as many pieces as there are deviations, one above the other."""
    if _is_loaded(parameter):
        return
    for piece, deviation in zip(parameter.detach().chunk(len(deviations)), deviations, strict=True):
        nn.init.normal_(piece, std=deviation)

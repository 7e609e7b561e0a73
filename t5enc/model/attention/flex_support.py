"""Where compiled Flex attention runs, and where it is the faster path: the one place that decides."""

from __future__ import annotations

import importlib.util

import torch

from t5enc.config import EncoderConfig

# CUDA's Flex kernel takes no smaller heads.
SMALLEST_FLEX_HEAD = 16


def find_flex_obstacle(
    config: EncoderConfig, device: torch.device, *, dtype: torch.dtype | None = None, needs_grad: bool = False
) -> str | None:
    """Why Flex cannot run such an encoder on that kind of device, None where it can.

    A compiler is not looked for: `find_missing_compiler` does that once, this is asked at every call.
    """
    if needs_grad:
        return "flex has no derivative here"
    if dtype == torch.float64:
        return "flex computes in float32 or less"
    if device.type != "cpu" and config.head_dim < SMALLEST_FLEX_HEAD:
        return (
            f"flex on {device.type} needs heads of at least {SMALLEST_FLEX_HEAD}, "
            f"and the model's have d_kv {config.head_dim}"
        )
    return None


def find_missing_compiler(device: torch.device) -> str | None:
    """What the CPU's Flex is compiled with, where it is not there."""
    if device.type != "cpu":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "flex needs a C++ compiler (g++ or clang++), and none was found"
    return None


def prefers_flex(device: torch.device) -> bool:
    """Whether Flex is the faster path there: it wins on CUDA with Triton; on CPUs SDPA does, and needs no compiler."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def suits_flex(config: EncoderConfig, device: torch.device) -> bool:
    """Whether Flex is the faster path, and runs such an encoder."""
    return prefers_flex(device) and find_flex_obstacle(config, device) is None


def flex_block_size(device: torch.device) -> int:
    """Smaller mask blocks skip more of a stream of short documents; CUDA's kernels want 128."""
    return 64 if device.type == "cpu" else 128

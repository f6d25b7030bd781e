"""The device that MLX computes on, asked at every call: it may change, also within a test."""

import mlx.core as mx


def on_cpu() -> bool:
    """Whether MLX's default device is the CPU."""
    return mx.default_device().type == mx.DeviceType.cpu

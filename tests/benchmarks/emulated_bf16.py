"""Run a script with bf16 autocast on a CPU that has no bf16 instructions, at float32's speed.

    python tests/benchmarks/emulated_bf16.py nu_deeplabv3plus/train.py --amp bf16 ...

Such a CPU computes PyTorch's bf16 convolutions some twenty times slower than float32 ones. Here a convolution under
autocast rounds its operands to bf16, multiplies and sums them in float32 and rounds the result to bf16; so do its
gradients. Products of two bf16 numbers are exact in float32, and hardware with AMX or AVX512-BF16 sums in float32 too,
so the numbers are those of the hardware up to the order of the sums. Everything else runs in PyTorch's own bf16.
"""

import runpy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bf16_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, **geometry) -> Tensor:
    """F.conv2d of any floats -> bf16, as bf16 autocast computes it; the casts round the gradients on their way back."""

    def rounded(operand: Tensor) -> Tensor:
        return operand.bfloat16().float()

    with torch.autocast(x.device.type, enabled=False):
        bias = None if bias is None else rounded(bias)
        return F.conv2d(rounded(x), rounded(weight), bias, **geometry).bfloat16()


def emulate() -> None:
    """From now on every nn.Conv2d of this process computes by bf16_conv2d() where bf16 autocast is on."""
    plain = nn.Conv2d._conv_forward

    def forward(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return plain(self, x, weight, bias)
        assert self.padding_mode == "zeros", "the emulation has no other padding"
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return bf16_conv2d(x, weight, bias, **geometry)

    nn.Conv2d._conv_forward = forward


if __name__ == "__main__":
    emulate()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")

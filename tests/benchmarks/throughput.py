"""Images per second of a training step, and the share of the device's own measured matrix peak: for a GPU.

    python tests/benchmarks/throughput.py --device cuda              our networks at their papers' sizes
    python tests/benchmarks/throughput.py --device cuda --compile    with torch.compile
    python tests/benchmarks/throughput.py --device cuda --batch 64 --only nu hair

Peak: the fastest of a few large bf16 matrix products (float32 without bf16). Floating-point operations of a step are
counted by PyTorch. On CUDA the steps run under torch.cuda.set_sync_debug_mode("error"): a step that waits for the GPU
ends the benchmark. What the warm cache delivers to one process: `run.py --only loading`.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import torch
from benchmarks.networks import CASES, Options, prepare_training
from torch.utils.flop_counter import FlopCounterMode

from common.device import pick_amp, pick_device
from common.pictures import print_table

STEPS, MATRIX = 20, 8192  # steps that are timed; the side of the matrices of the peak


def matrix_peak(device: torch.device, amp: bool, n: int, repeats: int = 10) -> float:
    """Floating-point operations a second of an n x n matrix product."""
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if amp else torch.float32)
    synchronize, fastest = getattr(torch, device.type).synchronize, float("inf")
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        a @ a
        synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * n**3 / fastest


def steps(name: str, device: torch.device, size: int, batch: int, compiled: bool, n: int) -> tuple[float, int]:
    """Seconds and floating-point operations of a training step; the first three steps do not count."""
    with FlopCounterMode(display=False) as counter:
        prepare_training(name, Options(), size, batch, device)()
    step = prepare_training(name, Options(), size, batch, device, compiled)
    synchronize = getattr(torch, device.type).synchronize
    for _ in range(3):
        step()
    synchronize()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    started = time.perf_counter()
    for _ in range(n):
        step()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    synchronize()
    return (time.perf_counter() - started) / n, counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto")
    parser.add_argument("--only", nargs="+", choices=CASES, default=[name for name in CASES])
    parser.add_argument("--batch", type=int, metavar="N", help="default: the case's, 32 on CUDA")
    parser.add_argument("--size", type=int, metavar="N", help="default: the paper's")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = pick_device(args.device)
    amp = pick_amp("auto", device)
    torch.backends.cudnn.benchmark = True
    peak = matrix_peak(device, amp, MATRIX)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{gpu}, {'bf16' if amp else 'float32'}: {peak / 1e12:.1f} Tflop/s, {MATRIX} x {MATRIX} product")
    rows = [["network", "px", "batch", "ms a step", "images/s", "Tflop/s", "share of peak"]]
    for name in args.only:
        case = CASES[name]
        size, batch = args.size or case.size, args.batch or (32 if device.type == "cuda" else case.batch)
        seconds, flops = steps(name, device, size, batch, args.compile, STEPS)
        rows.append([case.what, str(size), str(batch), f"{1000 * seconds:.1f}", f"{batch / seconds:.1f}",
                     f"{flops / seconds / 1e12:.2f}", f"{flops / seconds / peak:.0%}"])  # fmt: skip
        print(f"{case.what}: {batch / seconds:.1f} images/s", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()

"""Measures PyTorch's attention on 2 threads, by CPU time.

python -m experiments.benchmarks.torch_attention <tokens>
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

_GEMM, _ROUNDS = 2048, 7


def _median_seconds(call: Callable[[], object]) -> float:
    call()
    spent = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def main(tokens: int) -> None:
    """Prints the CPU seconds of each pass, and the FLOP/s of a matrix product, as JSON.

    Args:
        tokens: length of the sequence; q, k and v are (1, 4, tokens, 64).
    """
    torch.set_num_threads(2)
    query, key, value = (torch.randn(1, 4, tokens, 64, requires_grad=True) for _ in range(3))
    cotangent, square = torch.randn(1, 4, tokens, 64), torch.randn(_GEMM, _GEMM)

    def forward() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    seconds = {"both": _median_seconds(lambda: forward().backward(cotangent))}
    with torch.no_grad():
        seconds["forward"] = _median_seconds(forward)
        rate = 2 * _GEMM**3 / _median_seconds(lambda: square @ square)
    print(json.dumps({"seconds": seconds, "rate": rate}))


if __name__ == "__main__":
    main(int(sys.argv[1]))

# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention on device_bench's shapes, as one JSON line per figure: torch_attention.py [TOKENS [QUERIES]]"""
import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, DIM = 32, 8, 128
WARM_UPS, ROUNDS = 3, 20


def median_secs(run) -> float:
    secs = []
    for round_index in range(WARM_UPS + ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        if round_index >= WARM_UPS:
            secs.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(secs)


def measure(name: str, queries: int, tokens: int, causal: bool) -> None:
    q = torch.randn(1, HEADS, queries, DIM, device="cuda", dtype=torch.float16)
    # PyTorch's flash backend wants as many KV heads as query heads on some versions; ours reads each KV head once.
    k, v = (torch.randn(1, HEADS, tokens, DIM, device="cuda", dtype=torch.float16) for _ in range(2))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        secs = median_secs(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal))
    figure = {"benchmark": name, "by": f"pytorch {torch.__version__} flash", "tokens": tokens, "ms": round(secs * 1e3, 3)}
    if causal:
        figure["tflop_per_sec"] = round(2e-12 * HEADS * DIM * queries * tokens / secs, 1)
    print(json.dumps(figure), flush=True)


def main() -> int:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 32768
    queries = int(sys.argv[2]) if len(sys.argv) > 2 else 8192
    measure("attention_prefill", queries, queries, causal=True)
    measure("attention_decode", 1, tokens, causal=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

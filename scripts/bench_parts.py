"""Time the parts of a training step that could be done in more than one way; docs/log.md says what was chosen.

    python scripts/bench_parts.py

Forward and backward on the CPU, milliseconds, the best of several; 8 blocks of 512, width 256, as `gpt-tiny` has them,
and one LSTM layer of 512 over 16 blocks.
"""

import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `musegen train` sets it

import torch
from torch.nn import functional
from transformers.activations import ACT2FN


def best(action, *inputs: torch.Tensor, times: int = 5) -> float:
    """Milliseconds of one forward and backward pass."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        output = action(*inputs)
        if output.requires_grad:
            output.backward(torch.ones_like(output))
        taken.append((time.perf_counter() - started) * 1e3)
    return min(taken[1:])


def leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Random numbers that want a gradient."""
    return torch.randn(*shape).to(dtype).requires_grad_()


def main() -> int:
    """Print a line a way of doing it."""
    torch.manual_seed(0)
    hidden, query, logits = leaf(8, 512, 1024), leaf(8, 4, 512, 64), leaf(4096, 2000)
    mask = torch.ones(8, 1, 512, 512, dtype=torch.bool).tril()
    targets = torch.randint(0, 2000, (4096,))
    attend = functional.scaled_dot_product_attention
    ways = {
        "GELU in eight steps": best(ACT2FN["gelu_new"], hidden),
        "GELU in one kernel": best(ACT2FN["gelu_pytorch_tanh"], hidden),
        "attention, causal": best(lambda q: attend(q, q, q, is_causal=True), query),
        "attention, with a mask": best(lambda q: attend(q, q, q, attn_mask=mask), query),
        "attention, with dropout": best(lambda q: attend(q, q, q, attn_mask=mask, dropout_p=0.1), query),
        "dropout": best(lambda x: functional.dropout(x, 0.1), hidden),
        "loss in float32": best(lambda x: functional.cross_entropy(x.float(), targets), logits),
        "loss in bf16": best(lambda x: functional.cross_entropy(x, targets), logits),
    }
    for dtype in (torch.float32, torch.bfloat16):
        lstm = torch.nn.LSTM(512, 512, batch_first=True).to(dtype)
        ways[f"LSTM in {str(dtype)[6:]}"] = best(
            lambda x, run=lstm: run(x)[0], leaf(16, 512, 512, dtype=dtype), times=2
        )
    for name, milliseconds in ways.items():
        print(f"{name:26}{milliseconds:8.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Milliseconds a token on the CPU, of transformers and of ferrule by turns in one process.

    python tests/benchmarks/decode_beside_transformers.py [--threads 2] [--rounds 5]

The model is SmolLM2-135M: by transformers and by ferrule in bfloat16, and its Q4_1 file by ferrule.
Greedy, behind a prompt of 64 tokens. Each time is the difference of a long and a short answer, so
the prompt and the first token do not count; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

SHORT, LONG = 2, 34


def main() -> None:
    """Prints a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    default = Path.home() / ".cache" / "ferrule-test-data" / "models"
    parser.add_argument(
        "--models", type=Path, default=default, help="made by tests/data/smollm2.py"
    )
    asked = parser.parse_args()
    # Read when torch is imported, so that is done below.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    systems = make_systems(asked.models)
    for answer in systems.values():
        answer(4)
    found: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(asked.rounds):
        for name, answer in systems.items():
            short, long = seconds(answer, SHORT), seconds(answer, LONG)
            found[name].append(1000 * (long - short) / (LONG - SHORT))
    medians = {name: statistics.median(times) for name, times in found.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        sys.stdout.write(f"{name:24}{median:6.1f} ms, {first / median:.2f} times as fast\n")


def make_systems(models: Path) -> dict[str, Callable[[int], object]]:
    """What answers the prompt with so many tokens, by name; transformers first."""
    import torch
    from transformers import AutoModelForCausalLM

    from ferrule.llm import LLM
    from ferrule.plan import SamplingParams

    prompt = torch.randint(5, 4000, (1, 64), generator=torch.Generator().manual_seed(0))
    reference = AutoModelForCausalLM.from_pretrained(models / "llama", dtype=torch.bfloat16)

    def by_transformers(count: int) -> object:
        with torch.inference_mode():
            return reference.generate(
                prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False
            )

    def by_ferrule(name: str) -> Callable[[int], object]:
        # No prefix cache: every answer would find the prompt in it, and transformers has none.
        llm = LLM(
            models / name,
            devices="cpu",
            dtype="bfloat16",
            max_length=512,
            num_kv_blocks=64,
            enable_prefix_caching=False,
        )
        return lambda count: llm.generate(
            prompt.tolist(), SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        )

    return {
        "transformers, bfloat16": by_transformers,
        "ferrule, bfloat16": by_ferrule("llama"),
        "ferrule, Q4_1": by_ferrule("smollm2-135m.gguf"),
    }


def seconds(answer: Callable[[int], object], count: int) -> float:
    """How long an answer takes."""
    began = time.perf_counter()
    answer(count)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

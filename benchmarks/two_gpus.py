"""The same sweep by one worker on one GPU, then by two on two: `python benchmarks/two_gpus.py`.

    python benchmarks/two_gpus.py                                                     # two GPUs, two minutes
    python benchmarks/two_gpus.py --device cpu --model tiny_random --tokens 16        # a dry test of the script

Random weights of a real shape (one token a byte), whose values make nothing faster or slower: four (model, quant)
groups, each of a cell for each task and as many new tokens as allowed. Two speed-ups: of the whole command, with its
start, plan and end, which more GPUs do not shorten; and from the first cell's start to the last one's end.
"""

import argparse
import subprocess
import sys

from sweep import HEADING, Timed, line, timed, versions

QUANTS = "none,bnb_nf4,bnb_nf4_dq,bnb_fp4"
TASKS = "demo_qa,demo_ner,demo_re,demo_mlc"

WARM = "import bitsandbytes, bioquant.sweep.worker, bioquant.sweep.launch"
"""The libraries are on disk, not in memory, on a machine that has just started: the first sweep would wait for them."""

SLOTS = {
    "cuda": {"one GPU": "launcher.devices=[0]", "two GPUs": "launcher.devices=[0,1]"},
    "cpu": {"one CPU worker": "launcher.cpu_workers=1", "two CPU workers": "launcher.cpu_workers=2"},
}


def sweep(options: argparse.Namespace) -> list[str]:
    """What both commands have in common."""
    return [
        f"model={options.model}",
        "model.source=random",
        f"quant={QUANTS}",
        f"task={TASKS}",
        f"engine.device={options.device}",
        f"engine.max_new_tokens={options.tokens}",
        "measure.latency_examples=0",
        "measure.bootstrap_resamples=200",
    ]


def main() -> None:
    """Run both, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SLOTS, default="cuda")
    parser.add_argument("--model", default="llama_3_2_3b")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens an example")
    options = parser.parse_args()
    subprocess.run([sys.executable, "-c", WARM], check=True)
    found: dict[str, Timed] = {}
    for name, slots in SLOTS[options.device].items():
        found[name] = timed([*sweep(options), slots])
        print(f"{name}: {found[name].wall_s:.0f} s", file=sys.stderr, flush=True)
    one, two = found.values()
    print(f"{options.model}, random weights, {options.tokens} new tokens, quants {QUANTS}")
    print(f"{one.device}; {versions()}\n\n{HEADING.format('workers')}")
    print("\n".join(line(name, timing) for name, timing in found.items()))
    whole, working = one.wall_s / two.wall_s, one.working_s / two.working_s
    print(f"\nspeed-up of the whole command {whole:.2f}; of the cells alone {working:.2f}", end=" ")
    print(f"({one.working_s:.1f} s, {two.working_s:.1f} s)")


if __name__ == "__main__":
    main()

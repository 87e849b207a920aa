"""Measure training: tokens a second against transformers' own Trainer, model FLOPs utilisation, memory.

    python scripts/bench_train.py                      # gpt-tiny: this package, Trainer's defaults, Trainer in bf16
    python scripts/bench_train.py --preset lstm-small --block 512 --batch 16
    python scripts/bench_train.py --preset gpt-base --block 1024 --batch 32 --compile   # a GPU: a compiled row too
    python scripts/bench_train.py --table docs/models.md   # all presets, into that file's table

All contestants train the same fresh weights on the same blocks (the Mozart quartets that the music21 package carries,
packed as training packs them) on the same device, each in a process of its own, in turns; of the rounds the fastest
counts, since other work on a machine can only slow one down. The steps before the timed ones are not counted, nor is
the making of blocks. Trainer gets the positions of packed pieces too (`--plain`: nobody does).

FLOPs a token are 6 N + 12 L d T (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B): N the
parameters that multiply (no position table, no embedding that is only looked up), L layers of width d, T tokens a
block; attention is counted as if it were not causal. The peak is what a large matrix product reaches in the precision
of the run, in the same run. Utilisation of a bidirectional LSTM counts the steps of its windows.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `musegen train` sets it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

OURS, COMPILED = "musegen", "musegen, compiled"
DEFAULTS, SAME = "Trainer, its defaults", "Trainer, same precision"
VOCAB_SIZE = 2000
WARM_UP = 2  # steps
BEGIN, END = "<!-- presets: made by scripts/bench_train.py --table -->", "<!-- end of presets -->"
# Blocks a step of the table's rows: what a machine of 8 GB takes.
TABLE = {
    "gpt-tiny": 8,
    "gpt-small": 8,
    "gpt-base": 4,
    "lstm-tiny": 16,
    "lstm-small": 16,
    "lstm-base": 8,
    "bilstm-study": 8,
}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="gpt-tiny")
    parser.add_argument("--block", type=int, default=512, help="tokens")
    parser.add_argument("--batch", type=int, default=8, help="blocks a step")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "no"), default="auto")
    parser.add_argument("--plain", action="store_true", help="no positions: attention across pieces")
    parser.add_argument("--compile", action="store_true", help="a row with `compile: true` too")
    parser.add_argument("--prepared", type=Path, help="keep the blocks here, or take those that an earlier run left")
    parser.add_argument("--table", type=Path, help="measure all presets and write their table into this file")
    parser.add_argument("--one", nargs=2, metavar=("CONTESTANT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]), options)))
        return 0
    with tempfile.TemporaryDirectory() as aside:
        folder = options.prepared or Path(aside)
        if not (folder / "blocks.npy").exists():
            prepare(folder, options)
        has = np.load(folder / "blocks.npy", mmap_mode="r").shape
        needs = (WARM_UP + options.steps, max(TABLE.values()) if options.table else options.batch, options.block)
        if has[0] < needs[0] or has[1] < needs[1] or has[2] != needs[2]:
            parser.error(f"--prepared: {folder} has (steps, blocks, tokens) of {has}, {needs} are needed")
        if options.table:
            write_table(options.table, folder, options)
        else:
            compare(folder, options)
    return 0


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Leave a tokenizer and batches of blocks, int64 (steps, batch, block), in `folder`."""
    import music21

    from musegen.blocks import BlockOptions, BlockStream, training_piece
    from musegen.scores import load_score
    from musegen.tokenizer_training import train_tokenizer

    paths = sorted((Path(music21.__file__).parent / "corpus" / "mozart").rglob("*.mxl"))
    scores = [load_score(path, isolate=False).score for path in paths]
    tokenizer = train_tokenizer(scores, VOCAB_SIZE, progress=False)
    tokenizer.save_pretrained(folder / "tokenizer")
    pieces = [training_piece(tokenizer, score, "Mozart") for score in scores]
    batch = max([options.batch, *TABLE.values()]) if options.table else options.batch
    stream = BlockStream(pieces, tokenizer, BlockOptions(block_size=options.block), batch_size=batch)
    made = np.stack([next(stream) for _ in range(WARM_UP + options.steps)])
    np.save(folder / "blocks.npy", made.astype(np.int32))


def compare(folder: Path, options: argparse.Namespace) -> None:
    """All contestants in turns, and a table of them."""
    names = (OURS, *([COMPILED] if options.compile else []), DEFAULTS, SAME)
    rows = {name: run_one(name, folder, options) for name in names}
    for _ in range(options.rounds - 1):
        for name, row in rows.items():
            again = run_one(name, folder, options)
            rows[name] = max(row, again, key=lambda r: r["tokens_per_second"])
    ours = max((rows[name] for name in names if name in (OURS, COMPILED)), key=lambda r: r["tokens_per_second"])
    size = f"{ours['parameters'] / 1e6:.1f} M parameters"
    print(
        f"{options.preset}, {size}, {options.batch} blocks of {options.block}, {options.steps} steps; {device_name()}"
    )
    print(f"{'':26}{'precision':>10}{'tokens/s':>12}{'MFU':>8}{'peak memory':>13}{'musegen is':>12}")
    for name, row in rows.items():
        ratio = ours["tokens_per_second"] / row["tokens_per_second"]
        print(
            f"{name:26}{row['precision']:>10}{row['tokens_per_second']:>12,.0f}{row['mfu']:>8.1%}"
            f"{row['memory'] / 2**30:>10.2f} GB{ratio:>10.2f} x"
        )
    peaks = {row["precision"]: row["peak"] for row in rows.values()}
    print("peak of a matrix product: " + ", ".join(f"{p} {v / 1e12:.2f} TFLOP/s" for p, v in peaks.items()))
    print(f"FLOPs a token: {ours['flops'] / 1e6:.1f} M")


def write_table(path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Measure every preset and put the table between the marks in `path`."""
    lines = [
        BEGIN,
        f"Vocabulary of {VOCAB_SIZE:,}, blocks of {options.block} tokens; {device_name()}.",
        "",
        "| preset | parameters | blocks a step | precision | tokens/s | MFU | peak memory, training |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset, batch in TABLE.items():
        options.preset, options.batch = preset, batch
        row = run_one(OURS, folder, options)
        lines.append(
            f"| `{preset}` | {row['parameters'] / 1e6:.1f} M | {batch} | {row['precision']} "
            f"| {row['tokens_per_second']:,.0f} | {row['mfu']:.0%} | {row['memory'] / 2**30:.1f} GB |"
        )
        print(lines[-1], flush=True)
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    path.write_text(before + "\n".join([*lines, END]) + rest.partition(END)[2], encoding="utf-8")


def run_one(contestant: str, folder: Path, options: argparse.Namespace) -> dict:
    """`measure` in a process of its own, whose memory is then its own too."""
    command = [sys.executable, __file__, "--one", contestant, str(folder)]
    for name in ("preset", "block", "batch", "steps", "device", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command + ["--plain"] * options.plain, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(contestant: str, folder: Path, options: argparse.Namespace) -> dict:
    """Time one contestant; tokens a second, FLOPs, peak, memory in bytes."""
    from musegen.models import build_model
    from musegen.tokenizer import load_tokenizer
    from musegen.training_config import resolve_precision

    tokenizer = load_tokenizer(folder / "tokenizer")
    batches = np.load(folder / "blocks.npy")[: WARM_UP + options.steps, : options.batch].astype(np.int64)
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = build_model(options.preset, vocab_size=len(tokenizer), n_positions=options.block, **ids)
    precision = "no" if contestant == DEFAULTS else resolve_precision(options.precision)
    if contestant in (OURS, COMPILED):
        seconds = train_ours(model, tokenizer, batches, precision, options, contestant == COMPILED)
    else:
        seconds = train_theirs(model, tokenizer, batches, precision, options)
    gpu = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = options.steps * options.batch * options.block / seconds
    peak, flops = peak_flops(precision), flops_per_token(model, options.block)
    return {
        "precision": "fp32" if precision == "no" else precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": rate,
        "flops": flops,
        "peak": peak,
        "mfu": rate * flops / peak,
        "memory": memory,
    }


def train_ours(
    model, tokenizer, batches: np.ndarray, precision: str, options: argparse.Namespace, compiled: bool
) -> float:
    """Seconds of the timed steps of this package's loop."""
    from musegen.blocks import TrainingPiece
    from musegen.controls import Controls
    from musegen.training import Trainer
    from musegen.training_config import TrainingConfig

    config = TrainingConfig(
        out="unused",
        model=options.preset,
        block_size=options.block,
        batch_size=options.batch,
        steps=len(batches),
        precision=precision,
        compile=compiled,
    )
    # A piece that nobody reads: the blocks are made already.
    trainer = Trainer(model, tokenizer, [TrainingPiece([], Controls())], [], config, progress=False)
    trainer.takes_positions = trainer.takes_positions and not options.plain
    model.train()
    for index, blocks in enumerate(batches):
        if index == WARM_UP:
            started = clock()
        trainer._train_step(blocks)
        trainer.step += 1
    return clock() - started


def train_theirs(model, tokenizer, batches: np.ndarray, precision: str, options: argparse.Namespace) -> float:
    """Seconds of the timed steps of transformers' Trainer, with its defaults but for precision."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from musegen.blocks import position_ids
    from musegen.layout import StreamLayout
    from musegen.likelihood import context_of

    opens = np.flatnonzero(StreamLayout(tokenizer).opens)
    rows = []
    for blocks in batches:
        positions = torch.from_numpy(position_ids(blocks, opens))
        for block, position in zip(torch.from_numpy(blocks), positions):
            rows.append({"input_ids": block, "labels": block})
            if context_of(model) is not None and not options.plain:
                rows[-1]["position_ids"] = position
    times = {}

    class Timer(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (WARM_UP, len(batches)):
                times[state.global_step] = clock()

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=options.batch,
            max_steps=len(batches),
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows, callbacks=[Timer()]).train()
    return times[len(batches)] - times[WARM_UP]


def flops_per_token(model, block: int) -> float:
    """Forward and backward, a token of a block; see the head of this file."""
    config = model.config
    if config.model_type == "gpt2":
        parameters = sum(p.numel() for n, p in model.named_parameters() if "wpe" not in n)
        return 6 * parameters + 12 * config.n_layer * config.n_embd * block
    layers = sum(p.numel() for p in model.model.layers.parameters())
    head = model.lm_head.weight.numel() + sum(p.numel() for p in model.projection.parameters())
    if not config.bidirectional:
        return 6 * (layers + head)
    answered = min(config.train_positions or block, block - 1) / block
    return 6 * answered * (layers * config.window + head)


def peak_flops(precision: str) -> float:
    """FLOPs a second of a square matrix product, the best of several."""
    gpu = torch.cuda.is_available()
    size, device = (8192, "cuda") if gpu else (2048, "cpu")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        started = clock()
        a @ b
        times.append(clock() - started)
    return 2 * size**3 / min(times)


def clock() -> float:
    """Seconds, once all that was launched on the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name() -> str:
    """The device, and what else decides speed."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    text = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    lines = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    name = next(lines, platform.processor() or platform.machine())
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in text]
    return f"{torch.get_num_threads()} threads of {name} ({', '.join(found)}), torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())

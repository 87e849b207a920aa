#!/usr/bin/env bash
# mozart-gpt from its data: bash scripts/reproduce_mozart_gpt.sh MUTOPIA [cpu]
# Pretraining on all composers and tuning to Mozart: about six minutes on one GPU (an H200), to rounding the weights that
# ship. With `cpu` a model of half the size, trained in short windows first and long ones then: two and a quarter hours
# on one core with bf16 instructions, and a note costs it a fifth more bits (docs/log.md). Interrupted, the same command
# goes on. `musegen` must be installed and on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/mozart/corpus.sh "${1:?name the folder of the Mutopia files}"
if [ "${2:-}" = cpu ]; then
    # Sums are added up in another order with more threads, and the weights come out otherwise.
    export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    for part in gpt-1-pretrain gpt-2-long gpt-3-on gpt-4-tune; do
        musegen train "scripts/mozart/cpu/$part.yaml"
    done
    python scripts/ship_model.py runs/mozart/cpu/mozart-gpt --corpus runs/mozart/corpus --top-p 1.0 --out runs/mozart/shipped/mozart-gpt-cpu
else
    for part in gpt-1-pretrain gpt-2-tune; do
        musegen train "scripts/mozart/$part.yaml"
    done
    python scripts/ship_model.py runs/mozart/mozart-gpt --corpus runs/mozart/corpus --temperature 0.9 --repetition 4 --out runs/mozart/shipped/mozart-gpt
fi

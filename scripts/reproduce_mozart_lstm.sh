#!/usr/bin/env bash
# mozart-lstm from its data: bash scripts/reproduce_mozart_lstm.sh MUTOPIA [cpu]
# The same corpus, tokenizer and number of tokens as mozart-gpt, and about its size: about eight minutes on one GPU
# (an H200). With `cpu` a model of half the size, two and a half hours on one core. Interrupted, the same command goes on.
# `musegen` must be installed and on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/mozart/corpus.sh "${1:?name the folder of the Mutopia files}"
if [ "${2:-}" = cpu ]; then
    # Sums are added up in another order with more threads, and the weights come out otherwise.
    export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    for part in lstm-1-pretrain lstm-2-on lstm-3-tune; do
        musegen train "scripts/mozart/cpu/$part.yaml"
    done
    python scripts/ship_model.py runs/mozart/cpu/mozart-lstm --corpus runs/mozart/corpus --out runs/mozart/shipped/mozart-lstm-cpu
else
    for part in lstm-1-pretrain lstm-2-tune; do
        musegen train "scripts/mozart/$part.yaml"
    done
    python scripts/ship_model.py runs/mozart/mozart-lstm --corpus runs/mozart/corpus --temperature 0.85 --out runs/mozart/shipped/mozart-lstm
fi

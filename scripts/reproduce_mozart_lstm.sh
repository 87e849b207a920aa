#!/usr/bin/env bash
# mozart-lstm from its data: bash scripts/reproduce_mozart_lstm.sh MUTOPIA
# The same corpus, tokenizer and number of tokens as mozart-gpt; two and a half hours on one core. Interrupted, the same
# command goes on. `musegen` must be installed and on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
# Sums are added up in another order with more threads, and the weights come out otherwise.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
bash scripts/mozart/corpus.sh "$@"
for part in lstm-1-pretrain lstm-2-on lstm-3-tune; do
    musegen train "scripts/mozart/$part.yaml"
done
python scripts/ship_model.py runs/mozart/mozart-lstm --out runs/mozart/shipped/mozart-lstm

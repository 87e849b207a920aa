#!/usr/bin/env bash
# mozart-gpt from its data: bash scripts/reproduce_mozart_gpt.sh MUTOPIA
# Pretraining on all composers, first in short windows and then in long ones, and tuning to Mozart. Two and a
# quarter hours on one core of a CPU with bf16 instructions; interrupted, the same command goes on. `musegen` must be
# installed and on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
# Sums are added up in another order with more threads, and the weights come out otherwise.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
bash scripts/mozart/corpus.sh "$@"
for part in gpt-1-pretrain gpt-2-long gpt-3-on gpt-4-tune; do
    musegen train "scripts/mozart/$part.yaml"
done
python scripts/ship_model.py runs/mozart/mozart-gpt --out runs/mozart/shipped/mozart-gpt

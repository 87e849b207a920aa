#!/usr/bin/env bash
# The whole story by its verbs, for a reader who wants to see each step; `musegen demo` does the same and reports.
# About 10 minutes on 2 CPU cores.
set -euo pipefail
RUN=${1:-runs/steps}
mkdir -p "$RUN"

# 1. Scores become a corpus: one row a piece, split by work before anything is learned.
musegen corpus build music21:mozart --out "$RUN/corpus"
musegen corpus show "$RUN/corpus"

# 2. BPE on the training works only; the round trip of every note is measured and printed.
musegen tokenizer train "$RUN/corpus" --vocab-size 1600 --out "$RUN/tokenizer"

# 3. A small GPT-2 and a small LSTM, through one loop.
for MODEL in gpt-tiny lstm-tiny; do
  cat >"$RUN/$MODEL.yaml" <<YAML
corpus: $RUN/corpus
tokenizer: $RUN/tokenizer
out: $RUN/$MODEL
model: $MODEL
model_settings: {dropout: 0.1}
block_size: 256
steps: 320
learning_rate: 0.002
warmup: 20
eval_every: 40
save_every: 40
YAML
  musegen train "$RUN/$MODEL.yaml"
done

# 4. Music from nothing, with its sheet, roll and sound.
musegen generate "$RUN/gpt-tiny" --bars 16 --num 2 --seed 1 --out "$RUN/music" --sheet --roll --audio

# 5. How good is it? Against the held-out works, once.
musegen evaluate "$RUN/gpt-tiny" "$RUN/lstm-tiny" --corpus "$RUN/corpus" --bars 16 --out "$RUN/evaluation"

#!/usr/bin/env bash
# The corpus and the tokenizer of mozart-gpt and mozart-lstm: bash scripts/mozart/corpus.sh [MUTOPIA]
# MUTOPIA is a folder of MIDI files of the Mutopia Project with a metadata.csv (docs/corpus.md says which columns);
# everything else comes with the music21 package. Whole works are held out before anything is learned.
set -euo pipefail
mutopia=${1:?name the folder of the Mutopia files}
[ -e runs/mozart/corpus/report.json ] || musegen corpus build "$mutopia" \
    music21:mozart music21:haydn music21:beethoven music21:bach \
    --test-work '*KV421' --test-work '*KV457' --test-work '*k155' \
    --validation-work '*KV428' --validation-work '*KV309' --validation-work '*KV397' \
    --out runs/mozart/corpus
[ -e runs/mozart/tokenizer/tokenizer.json ] || musegen tokenizer train runs/mozart/corpus --vocab-size 2500 \
    --out runs/mozart/tokenizer

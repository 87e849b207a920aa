"""The published metric `music_bleu`; `evaluate.load` on this folder is its front door."""

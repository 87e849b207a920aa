"""Whether a model composes: its music against real held-out music, and against baselines that it must beat.

`judge` is the front door. Everything it uses can be used alone: features, structure, originality, bands and the
two-sample test take scores or plain arrays.
"""

from musegen.judging.judge import judge
from musegen.judging.pieces import Piece, read_folder, score_paths

__all__ = ["Piece", "judge", "read_folder", "score_paths"]

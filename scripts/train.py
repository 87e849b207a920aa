"""What `accelerate launch` starts: `accelerate launch scripts/train.py CONFIG.yaml [name=value ...]`.

One process or many, this is `musegen train`; see docs/training.md for the settings.
"""

import sys

import yaml
from accelerate.state import PartialState

from musegen.errors import MusegenError
from musegen.training import train_from_config
from musegen.training_config import TrainingConfig


def main() -> int:
    """Train from the command line; 2 for a fault of the user's, with one line on standard error."""
    if len(sys.argv) < 2:
        print("usage: train.py CONFIG.yaml [name=value ...]", file=sys.stderr)
        return 2
    overrides = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    try:
        result = train_from_config(TrainingConfig.from_yaml(sys.argv[1], **overrides))
    except MusegenError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    if PartialState().is_main_process:
        print(f"best at step {result.best_step}: {result.bits_per_note:.3f} bits a note on the validation works")
    return 0


if __name__ == "__main__":
    sys.exit(main())

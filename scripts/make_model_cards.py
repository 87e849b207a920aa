"""Write the cards in `model_cards/` anew: `python scripts/make_model_cards.py [NAME ...] [--samples]`.

Each folder `model_cards/NAME/` holds `card.yaml` (the keys are those of `musegen.hub.cards.CardFacts`) and
`results.json` of `musegen evaluate`. With `--samples` seeds 0 to 3 are composed by the model NAME first and written to
`samples/`. NAME is a model that ships with the package, or give its folder by `--model`.
"""

import argparse
from pathlib import Path

from musegen.hub.cards import FACTS, SAMPLES, CardFacts, make_samples, write_model_card
from musegen.shipped import CHECKPOINTS


def main():
    """Write cards, and samples if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="Folders in --root; all with a card.yaml by default.")
    parser.add_argument("--root", type=Path, default=Path("model_cards"))
    parser.add_argument("--model", type=Path, help="Folder of the model, of one NAME.")
    parser.add_argument("--samples", action="store_true", help="Compose the samples first.")
    parser.add_argument("--bars", type=int, default=32, help="Of each sample.")
    told = parser.parse_args()
    names = told.names or sorted(path.parent.name for path in told.root.glob(f"*/{FACTS}"))
    if told.model and len(names) != 1:
        parser.error("--model goes with one NAME")
    if not names:
        parser.error(f"no {FACTS} in the folders of {told.root}")
    for name in names:
        folder = told.root / name
        model = told.model or CHECKPOINTS / name
        if told.samples:
            make_samples(model, folder / SAMPLES, bars=told.bars, title=CardFacts.from_yaml(folder / FACTS).name)
        print(write_model_card(folder, model=model if (model / "config.json").is_file() else None))


if __name__ == "__main__":
    main()

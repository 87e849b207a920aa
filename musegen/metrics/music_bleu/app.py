"""The metric's Space: paste token sequences, read BLEU.

`evaluate.utils.launch_gradio_widget` does not run with current gradio, so this page is built with gradio directly.
"""

from pathlib import Path

import evaluate
import gradio as gr

HERE = Path(__file__).parent
SMOOTHINGS = ["none", "epsilon", "add1", "nist", "length", "average", "prior", "length_average"]
DEFAULT_WEIGHTS = "0 1/12 1/12 1/6 1/6 1/6 1/6 1/12 1/12"
PREDICTION = "p60 wait6 endp60 p62 wait6 endp62 p64 wait12 endp64 p60"
REFERENCES = """p60 wait6 endp60 p62 wait6 endp62 p64 wait12 endp64 p65 wait12 endp65
p67 wait6 endp67 p62 wait6 endp62 p60 wait24 endp60"""

# On a Space the folder is not named after the metric, so the file is.
metric = evaluate.load(str(HERE / "music_bleu.py"))


def parse_number(text: str) -> float:
    """A number written as a decimal or as a fraction such as 1/12.

    Raises:
        ValueError: It is neither; the message says which text.
    """
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"weights: {text!r} is no number such as 0.25 or 1/12") from None


def score(predictions: str, references: str, weights: str, smoothing: str, encoding: str) -> dict:
    """Score predictions against references that all of them share.

    Args:
        predictions: One sequence a line, tokens separated by spaces.
        references: The same.
        weights: Weights of orders 1, 2, ..., separated by spaces or commas.
        smoothing: One of `SMOOTHINGS`.
        encoding: Name of the token encoding, or empty.

    Returns:
        What the metric's `compute` returns.

    Raises:
        gr.Error: The input cannot be scored; the message says why.
    """
    try:
        return metric.compute(
            predictions=[line.split() for line in predictions.splitlines() if line.strip()],
            reference_corpus=[line.split() for line in references.splitlines() if line.strip()],
            weights=[parse_number(weight) for weight in weights.replace(",", " ").split()],
            smoothing=smoothing,
            encoding=encoding.strip() or None,
        )
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error)) from error


def article() -> str:
    """The metric card without its YAML header."""
    return (HERE / "README.md").read_text(encoding="utf-8").split("---", 2)[-1]


page = gr.Interface(
    fn=score,
    inputs=[
        gr.Textbox(label="Predictions, one a line", lines=6, value=PREDICTION),
        gr.Textbox(label="References, one a line", lines=6, value=REFERENCES),
        gr.Textbox(label="Weights of orders 1, 2, ...", value=DEFAULT_WEIGHTS),
        gr.Dropdown(label="Smoothing", choices=SMOOTHINGS, value="none"),
        gr.Textbox(label="Name of the token encoding (for the signature)", value="notewise"),
    ],
    outputs=gr.JSON(label="Result"),
    title="Metric: music_bleu",
    description="How much of a sequence of music tokens stands in the references. Higher is not better: a score above "
    "that of real, held-out music means copying.",
    flagging_mode="never",
    article=article(),
)

if __name__ == "__main__":
    page.launch()

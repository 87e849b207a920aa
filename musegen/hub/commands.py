"""`musegen publish VERB`. Heavy imports happen inside the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer(
    help="Put a model, a corpus, the metric or the page on the Hub: loaded back and tried first, private by default.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
To = Annotated[str, typer.Option("--to", help="Name on the Hub, ORG/NAME.")]
Public = Annotated[bool, typer.Option("--public", help="For everyone to see; a licence that allows it is needed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show every file and try them; send nothing.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Of this version; the package's by default.")]
Rights = Annotated[bool, typer.Option("--rights-checked", help="You know that what is doubted may be shared.")]


@verbs.command()
def model(
    source: Annotated[str, typer.Argument(help="A folder, a shipped name, or a Hub name.")],
    to: To,
    public: Public = False,
    dry_run: DryRun = False,
    tag: Tag = None,
    card: Annotated[Path | None, typer.Option(help="A card, or a folder with README.md and samples/.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="As the Hub spells it, over the card's.")] = None,
    rights_checked: Rights = False,
):
    """Weights, tokenizer, generation settings, card, and the code that loads them without musegen."""
    _publish(
        dry_run, kind="model", repo_id=to, source=source, public=public, tag=tag, card=card, license=license_,
        rights_checked=rights_checked,
    )  # fmt: skip


@verbs.command()
def dataset(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    to: To,
    public: Public = False,
    dry_run: DryRun = False,
    tag: Tag = None,
    rights_checked: Rights = False,
):
    """A corpus with its card, for `datasets.load_dataset`."""
    _publish(
        dry_run, kind="dataset", repo_id=to, source=str(corpus), public=public, tag=tag, rights_checked=rights_checked
    )


@verbs.command()
def metric(to: To, public: Public = False, dry_run: DryRun = False, tag: Tag = None):
    """`music_bleu` as a Space, for `evaluate.load`."""
    _publish(dry_run, kind="metric", repo_id=to, public=public, tag=tag)


@verbs.command()
def app(to: To, public: Public = False, dry_run: DryRun = False, tag: Tag = None):
    """The page as a Gradio Space."""
    _publish(dry_run, kind="app", repo_id=to, public=public, tag=tag)


def _publish(dry_run: bool, *, tag: str | None, **settings) -> None:
    from musegen.hub.publishing import Request, publish

    publish(Request(**settings, **({"tag": tag} if tag else {})), dry_run=dry_run)

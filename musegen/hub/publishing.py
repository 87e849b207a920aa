"""`musegen publish`: stage, check, try in fresh processes, send, compare, tag.

An upload that broke off goes on when the same command is given again: large files that arrived stay on the Hub and
are not sent twice, and a commit appears whole or not at all. A tag, once set, is never moved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import musegen
from musegen.errors import HubError
from musegen.hub import staging
from musegen.hub.checks import ALLOWED, CARD, File, left_out, read_card, sharing_problems, staged_files

REPO_TYPES = {"model": "model", "dataset": "dataset", "metric": "space", "app": "space"}
TRIAL_SECONDS = 1800
# Which trials a kind has to pass: with musegen, and as someone without it would load it.
_MANNERS = {"model": ("with", "without"), "dataset": ("with", "without"), "metric": ("without",), "app": ("with",)}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TAG = re.compile(r"v\d+(\.\d+)*([.-]?\w+)*")


@dataclasses.dataclass(frozen=True)
class Request:
    """What shall be published.

    Args:
        kind: `model`, `dataset`, `metric` or `app`.
        repo_id: ORG/NAME.
        source: Of a model or a corpus.
        public: For everyone to see; else only for the owner and the organisation.
        tag: Of this version; the package's version by default.
        card: Of a model: a card, or a folder with one and its samples.
        license: Of a model, over the card's.
        rights_checked: The user says that what `checks.sharing_problems` doubts may be shared.
    """

    kind: str
    repo_id: str
    source: str = ""
    public: bool = False
    tag: str = f"v{musegen.__version__}"
    card: Path | None = None
    license: str | None = None
    rights_checked: bool = False

    def __post_init__(self):
        if self.kind not in REPO_TYPES:
            raise HubError(f"{self.kind}: not among {', '.join(REPO_TYPES)}")
        if not _REPO_ID.fullmatch(self.repo_id):
            raise HubError(f"--to {self.repo_id}: a name on the Hub is ORG/NAME")
        if not _TAG.fullmatch(self.tag):
            raise HubError(f"--tag {self.tag}: a version is written as v0.1.0")

    @property
    def repo_type(self) -> str:
        """As the Hub calls it."""
        return REPO_TYPES[self.kind]


def publish(request: Request, *, dry_run: bool = False, say: Callable[[str], None] = print) -> str | None:
    """Publish, or with `dry_run` do all but the sending.

    Returns:
        Where it lies; None of a dry run.

    Raises:
        HubError: It cannot be published, or the Hub does not take it; what was sent so far is kept there.
        MusegenError: The source is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="musegen-publish-") as place:
        folder = Path(place) / request.repo_id.partition("/")[2]
        folder.mkdir()
        stage(request, folder)
        files = staged_files(folder, request.kind)
        card = read_card(folder, request.repo_type)
        _check_licences(request, folder, card, say)
        say(listing(request, files))
        if request.source and Path(request.source).is_dir() and (rest := left_out(Path(request.source), request.kind)):
            say(f"left where they are: {', '.join(rest)}")
        manners = _MANNERS[request.kind]
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(try_out, [request.kind] * len(manners), [folder] * len(manners), manners))
        for manner, what in zip(manners, made):
            say(f"loaded back {manner} musegen: {what}")
        if dry_run:
            say("dry run: nothing was sent")
            return None
        return _send(request, folder, files, card, say)


def stage(request: Request, folder: Path) -> None:
    """Fill a new folder with what is sent."""
    if request.kind == "model":
        staging.stage_model(
            request.source, folder, repo_id=request.repo_id, card=request.card, license_=request.license
        )
    elif request.kind == "dataset":
        staging.stage_dataset(request.source, folder, repo_id=request.repo_id)
    elif request.kind == "metric":
        staging.stage_metric(folder, repo_id=request.repo_id)
    else:
        staging.stage_app(folder, repo_id=request.repo_id)


def listing(request: Request, files: list[File]) -> str:
    """Every file with its size, for a person."""
    width = max(len(file.path) for file in files)
    seen = "public" if request.public else "private"
    lines = [f"{request.repo_type} {request.repo_id}, {seen}, {request.tag}:"]
    lines += [f"  {file.path:<{width}}  {file.size:>13,} bytes" for file in files]
    return "\n".join([*lines, f"  {f'{len(files)} files':<{width}}  {sum(file.size for file in files):>13,} bytes"])


def try_out(kind: str, folder: Path, manner: str) -> str:
    """Load a staged folder in a fresh process with empty caches and no network, and let it make music.

    Args:
        kind: Of what is in it.
        folder: The staged folder.
        manner: `with` or `without` musegen.

    Returns:
        What it made, as JSON.

    Raises:
        HubError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="musegen-trial-") as home:
        hidden = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {
            "HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        program = str(Path(__file__).with_name("trial.py"))
        try:
            done = subprocess.run(
                [sys.executable, program, kind, str(folder), manner], env=environment, cwd=home, capture_output=True,
                text=True, timeout=TRIAL_SECONDS, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise HubError(
                f"not sent: loaded back {manner} musegen, it took more than {TRIAL_SECONDS} seconds"
            ) from None
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines and lines[-1].startswith("{"):
        return ", ".join(f"{name} {value}" for name, value in json.loads(lines[-1]).items())
    reason = (done.stderr.strip().splitlines() or ["no word why"])[-1][:300]
    raise HubError(f"not sent: loaded back {manner} musegen, it failed ({reason})")


def _check_licences(request: Request, folder: Path, card, say) -> None:
    license_ = card.data.to_dict().get("license")
    problems: list[str] = []
    if not license_:
        problems.append(f"{CARD}: no license in its metadata")
    elif request.kind == "model" and license_ == "other" and not card.data.to_dict().get("license_name"):
        problems.append("the model has no licence; give one with --license, such as cc-by-sa-4.0")
    if request.kind == "dataset":
        from musegen.corpus_stats import summarize

        counts: dict[str, int] = {}
        for (_, name), count in summarize(folder).licenses.items():
            counts[name] = counts.get(name, 0) + count
        problems += sharing_problems(counts)
    if problems and request.public and not request.rights_checked:
        raise HubError(
            f"not sent: {'; '.join(problems)}. Publish without --public, or say --rights-checked if you know that it "
            "may be shared"
        )
    for problem in problems:
        say(f"to check before it is made public: {problem}")


def _send(request: Request, folder: Path, files: list[File], card, say) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="musegen", library_version=musegen.__version__)
    with _told(request):
        _validate(card, request)
        sdk = {"space_sdk": "gradio"} if request.repo_type == "space" else {}
        url = api.create_repo(
            request.repo_id, repo_type=request.repo_type, private=not request.public, exist_ok=True, **sdk
        )
        private = api.repo_info(request.repo_id, repo_type=request.repo_type).private
        if private is not None and bool(private) == request.public:
            raise HubError(
                f"{request.repo_id}: exists and is {'private' if private else 'public'}; that is changed on its "
                f"settings page only{'' if private else ', or give --public'}"
            )
        tags = {
            tag.name: tag.target_commit
            for tag in api.list_repo_refs(request.repo_id, repo_type=request.repo_type).tags
        }
        if request.tag in tags:
            if differences(api, request, folder, files, tags[request.tag]):
                raise HubError(
                    f"{request.repo_id}: {request.tag} exists with other content, and a tag is never moved; the next "
                    f"one is --tag {next_tag(request.tag, tags)}"
                )
            say(f"{request.tag} is there already, with this very content")
            return str(url)
        commit = api.upload_folder(
            repo_id=request.repo_id, repo_type=request.repo_type, folder_path=folder,
            commit_message=f"{request.tag}, by musegen {musegen.__version__}",
            delete_patterns=list(ALLOWED[request.kind]),
        )  # fmt: skip
        if wrong := differences(api, request, folder, files, commit.oid):
            raise HubError(
                f"{request.repo_id}: not tagged, for what lies there differs from what was sent: {', '.join(wrong)}"
            )
        api.create_tag(request.repo_id, repo_type=request.repo_type, tag=request.tag, revision=commit.oid)
    say(f"published: {url} as {request.tag}")
    return str(url)


def _validate(card, request: Request) -> None:
    """Ask the Hub whether it takes the card."""
    try:
        card.validate(repo_type=request.repo_type)
    except ValueError as error:
        raise HubError(f"{CARD}: the Hub refuses it ({' '.join(str(error).split())[:300]})") from None


def differences(api, request: Request, folder: Path, files: list[File], revision: str) -> list[str]:
    """Files of ours that are missing or different in a revision, and files of the kind that should not be there."""
    there = {
        entry.path: (entry.lfs.sha256 if entry.lfs else entry.blob_id)
        for entry in api.list_repo_tree(
            request.repo_id, repo_type=request.repo_type, revision=revision, recursive=True, expand=False
        )
        if hasattr(entry, "blob_id")
    }
    wrong = [
        file.path
        for file in files
        if there.get(file.path) not in (_sha256(folder / file.path), _git_id(folder / file.path))
    ]
    ours = {file.path for file in files}
    return wrong + sorted(path for path in there if path not in ours and staging.is_allowed(path, request.kind))


def next_tag(tag: str, tags) -> str:
    """The first free version after a tag: its last number counted up."""
    while tag in tags:
        match = re.search(r"(\d+)(?!.*\d)", tag)
        tag = f"{tag[: match.start()]}{int(match[1]) + 1}{tag[match.end() :]}"
    return tag


@contextlib.contextmanager
def _told(request: Request) -> Iterator[None]:
    """What the Hub or the network says, in a line that also says what to do."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # Uploads run in threads, whose errors come wrapped.
        inner = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        message = _message(inner)
        if message is None:
            raise
        raise HubError(message if message[0].isupper() else f"{request.repo_id}: {message}") from None


def _message(error: BaseException) -> str | None:
    """What an error of the client means; None if it is not the Hub's or the network's."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    again = "the same command goes on from what has arrived"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is sent; unset it to publish"
    if isinstance(error, LocalTokenNotFoundError):
        return "the Hub does not know you; `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        reason = " ".join((getattr(error, "server_message", None) or str(error)).split())[:200]
        if status == 401:
            return "the Hub does not know you; `hf auth login`, or set HF_TOKEN"
        if status == 403:
            return f"your token may not write there ({reason})"
        return f"the Hub answered {status} ({reason}); {again}"
    # The errors of the client's own HTTP library, which changes, have no class of huggingface_hub's.
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return f"the Hub cannot be reached ({type(error).__name__}); {again}"
    return None


def _sha256(path: Path) -> str:
    return _digest(path, hashlib.sha256())


def _git_id(path: Path) -> str:
    """What git calls the content; the Hub names small files so."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size))


def _digest(path: Path, digest) -> str:
    with path.open("rb") as file:
        while chunk := file.read(1024**2):
            digest.update(chunk)
    return digest.hexdigest()

"""The package's errors: each says what was wrong, where, and what to do.

The command line turns every `MusegenError` into one line and exit code 2; anything else is a fault of
musegen itself and keeps its traceback.
"""


class MusegenError(Exception):
    """Base of every error that a user can cause or cure."""


class ScoreError(MusegenError):
    """A score file that cannot be used.

    Args:
        source: The file's path, or another name by which the user knows it.
        reason: One word of `musegen.scores.REASONS`, stable, for counting.
        detail: A sentence for a person.
    """

    def __init__(self, source: str, reason: str, detail: str):
        super().__init__(f"{source}: {reason}: {detail}")
        self.source = source
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.source, self.reason, self.detail)


class CorpusError(MusegenError):
    """A corpus that cannot be built or read."""


class TokenizerError(MusegenError):
    """A tokenizer that cannot be trained, loaded or applied."""


class ModelError(MusegenError):
    """A model folder that is not one, or does not fit its tokenizer."""


class CheckpointError(ModelError):
    """A checkpoint with a missing, torn or foreign file."""


class ConfigError(MusegenError):
    """A setting that does not exist or has a value out of its range."""


class TrainingError(MusegenError):
    """A training that cannot go on."""


class RequestError(MusegenError):
    """A request for music that cannot be met; says what is allowed."""


class WorkerError(MusegenError):
    """A task that its isolated worker process did not survive.

    Args:
        reason: `crashed`, `timeout`, `memory`, or `error` for an exception that is no `MusegenError`.
        detail: A sentence for a person.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


class HubError(MusegenError):
    """Something that cannot be published, or a Hub that does not take it."""

"""All bounds of a build in one place, each changeable by name: `--limit notes=200000`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from musegen.canonical import ScoreLimits
from musegen.errors import ConfigError
from musegen.sources import ArchiveLimits
from musegen.workers import WorkerLimits

_ARCHIVE = "archive_"


@dataclasses.dataclass(frozen=True)
class BuildLimits:
    """What a file may hold, what reading it may cost, and what an archive may unpack to.

    Args:
        score: Of one score.
        worker: Time and memory for one file.
        archive: Of one archive or table.
    """

    score: ScoreLimits = dataclasses.field(default_factory=ScoreLimits)
    worker: WorkerLimits = dataclasses.field(default_factory=WorkerLimits)
    archive: ArchiveLimits = dataclasses.field(default_factory=ArchiveLimits)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BuildLimits:
        """Limits by their names; all others stay as they are by default.

        Args:
            settings: Fields of `ScoreLimits` and `WorkerLimits`, and those of `ArchiveLimits` after `archive_`.

        Raises:
            ConfigError: If there is no such limit, or a value is no positive number.
        """
        limits = cls()
        known = limits.as_settings()
        for name, value in settings.items():
            if name not in known:
                raise ConfigError(f"limit {name}: there is none of that name; there are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"limit {name}: a number above 0 is needed, not {value!r}")
            part, field = ("archive", name[len(_ARCHIVE) :]) if name.startswith(_ARCHIVE) else ("score", name)
            if not hasattr(getattr(limits, part), field):
                part = "worker"
            own = getattr(limits, part)
            value = type(getattr(own, field))(value)
            limits = dataclasses.replace(limits, **{part: dataclasses.replace(own, **{field: value})})
        # A member of an archive is a file like any other.
        if "file_bytes" in settings and "archive_member_bytes" not in settings:
            archive = dataclasses.replace(limits.archive, member_bytes=limits.score.file_bytes)
            limits = dataclasses.replace(limits, archive=archive)
        return limits

    def as_settings(self) -> dict[str, Any]:
        """All limits by name."""
        archive = {f"{_ARCHIVE}{name}": value for name, value in dataclasses.asdict(self.archive).items()}
        return {**dataclasses.asdict(self.score), **dataclasses.asdict(self.worker), **archive}

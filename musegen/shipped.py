"""The models that come with the package, by name: no network, no cache.

`musegen/checkpoints/NAME` is a complete Hub folder. The package's own functions look there for a name without a
slash; transformers' own would ask the Hub for it, so importing musegen makes the Auto classes and
`transformers.pipeline` look there first too. A folder of that name in the current folder comes before, as it does in
transformers.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINTS = Path(__file__).parent / "checkpoints"
_NAME = re.compile(r"[\w-][\w.-]*")
_KNOWS = "_knows_shipped_models"


def shipped_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(entry.parent.name for entry in CHECKPOINTS.glob("*/config.json"))


def shipped_folder(name: Any) -> Path | None:
    """The folder of a model that comes with the package, or None for any other name."""
    if not isinstance(name, (str, os.PathLike)) or not _NAME.fullmatch(str(name)) or Path(name).exists():
        return None
    folder = CHECKPOINTS / str(name)
    return folder if (folder / "config.json").is_file() else None


def knows_shipped(load: Callable, rescue: str = "") -> Callable:
    """A function, or a method of a class, whose argument `model` or first argument may be such a name.

    Args:
        load: `from_pretrained` of an Auto class, as a plain function of the class, or `transformers.pipeline`.
        rescue: A module that makes more architectures known, imported if it meets one that it does not know.
    """
    if hasattr(load, _KNOWS):
        return load

    @functools.wraps(load)
    def loading(*args: Any, **kwargs: Any):
        for name in ("pretrained_model_name_or_path", "model"):
            if name in kwargs:
                kwargs[name] = _located(kwargs[name])
        # The class or the task comes first, the name second.
        args = (*args[:1], *(_located(value) for value in args[1:2]), *args[2:])
        try:
            return load(*args, **kwargs)
        except ValueError:
            if not rescue or rescue in sys.modules:
                raise
            importlib.import_module(rescue)
            return load(*args, **kwargs)

    setattr(loading, _KNOWS, True)
    return loading


def teach(*classes: type, rescue: str = "") -> None:
    """Make `from_pretrained` of Auto classes know the names. Calling it again changes nothing.

    Args:
        classes: The Auto classes.
        rescue: See `knows_shipped`.
    """
    for auto in classes:
        auto.from_pretrained = classmethod(knows_shipped(auto.from_pretrained.__func__, rescue))


def _located(value: Any) -> Any:
    folder = shipped_folder(value)
    return value if folder is None else str(folder)


__all__ = ["CHECKPOINTS", "knows_shipped", "shipped_folder", "shipped_names", "teach"]

"""The columns of a corpus, as pyarrow writes them and `datasets` reads them.

The build writes with pyarrow alone: importing `datasets` would cost more than reading a hundred files. What
`datasets` wants to know of the columns stands in the schema's metadata, in its own words.
"""

from __future__ import annotations

import json

import pyarrow as pa

SPLITS = ("train", "validation", "test")
TEXTS = ("content_hash", "work", "composer", "title", "source", "provenance", "license", "key", "metre", "group")
# name -> type as `datasets` calls it; a list for lists of it
COLUMNS: dict[str, str | list[str]] = {
    "midi": "binary",
    "content_hash": "string",
    "work": "string",
    "composer": "string",
    "title": "string",
    "source": "string",
    "provenance": "string",
    "license": "string",
    "notes": "int32",
    "bars": "int32",
    "beats": "float32",
    "seconds": "float32",
    "key": "string",
    "metre": "string",
    "programs": ["int16"],
    "group": "string",
    "fingerprint": ["uint32"],
}
TOKENS = "input_ids"
TOKENS_TYPE = ["uint16"]
# Older corpora lack these; nothing that trains needs them.
OPTIONAL = ("group", "fingerprint", "seconds")


def columns(tokens: bool) -> dict[str, str | list[str]]:
    """The columns of a corpus, with or without token ids."""
    return {**COLUMNS, TOKENS: TOKENS_TYPE} if tokens else dict(COLUMNS)


def arrow_schema(tokens: bool, about: dict[str, str] | None = None) -> pa.Schema:
    """The schema of the Parquet files.

    Args:
        tokens: With the column of token ids.
        about: Further metadata of the files.
    """
    info = {}
    fields = []
    for name, kind in columns(tokens).items():
        if isinstance(kind, list):
            fields.append(pa.field(name, pa.list_(_arrow_type(kind[0]))))
            info[name] = {"feature": {"dtype": kind[0], "_type": "Value"}, "_type": "List"}
        else:
            fields.append(pa.field(name, _arrow_type(kind)))
            info[name] = {"dtype": kind, "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": info}}), **(about or {})}
    return pa.schema(fields, metadata=metadata)


def _arrow_type(kind: str) -> pa.DataType:
    return getattr(pa, kind)()

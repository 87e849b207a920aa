"""The fenced blocks of a Markdown document, and a folder in which they are run from first to last."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\n+$")
# What only a shell can do: substitution, pipes, redirection, patterns, lists of commands, an environment in front.
SHELL = re.compile(r"[$`|<>;&*?]|^\w+=")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it is, and why it is not run (None if it is)."""

    document: str
    line: int
    language: str
    code: str
    not_run: str | None


def documents() -> list[str]:
    """Every document with blocks to run, by its path in the repository; the reference is made, not written."""
    written = [path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.relative_to(ROOT).parts]
    return ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in written)]


def blocks_of(document: str) -> list[Block]:
    """The blocks of a document in their order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        marker = NOT_RUN.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        reason = marker and marker["reason"]
        found.append(Block(document, line, match["language"], match["code"], reason))
    return found


def commands_of(code: str) -> list[str]:
    """The commands of a shell block, continued lines joined, comments and blank lines left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if shlex.split(line, comments=True)]


class Workplace:
    """A folder and a namespace in which the blocks of one document run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.namespace: dict = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block; what fails raises, with the document's own line in the trace."""
        if block.language == "python":
            code = "\n" * block.line + block.code
            exec(compile(code, f"{block.document}", "exec"), self.namespace)
        elif block.language == "yaml":
            name = re.match(r"# (\S+\.yaml)\b", block.code)
            assert name, f"{block.document}:{block.line}: a yaml block begins with the name of its file, as a comment"
            (self.folder / name[1]).write_text(block.code, encoding="utf-8")
        elif block.language == "bash":
            for command in commands_of(block.code):
                self._command(command, f"{block.document}:{block.line}: {command}")

    def _command(self, command: str, where: str) -> None:
        words = shlex.split(command, comments=True)
        if words[0] == "musegen" and not SHELL.search(re.sub(r"\"[^\"]*\"|'[^']*'|#.*", "", command)):
            # In this process, which has imported already what a fresh one would take seconds to.
            code = self._musegen(words[1:])
            assert code == 0, f"{where}: exit code {code}"
            return
        path = os.pathsep.join([str(self.folder / ".bin"), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-euc", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"

    def _musegen(self, words: list[str]) -> int:
        from musegen import cli

        with mock.patch.object(sys, "argv", ["musegen", *words]), mock.patch.dict(os.environ):
            try:
                cli.main()
            except SystemExit as end:
                return end.code or 0
        return 0

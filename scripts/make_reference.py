"""Write the reference, `docs/reference/`, from docstrings and the command line's own help, as plain Markdown.

    python scripts/make_reference.py           # write it
    python scripts/make_reference.py --check   # exit with 1 and name the pages if it is not up to date

One page a row of README's map, in its order. Modules are parsed, never imported, so that extras need not be installed.
"""

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "reference"
MAP_ROW = re.compile(r"^\| `(musegen/[\w./]+)` \| (.+?) \|$", re.MULTILINE)
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
ITEM = re.compile(r"^(\*{0,2}\w[\w., *]*?):(?:\s+(.*))?$")
WIDTH = 119  # of a signature on one line
MADE = "<!-- Made by scripts/make_reference.py from the docstrings; changes belong there. -->"
FOLDERS = ("__init__.py", "__main__.py")  # named by their folder


_EXIT_CODES = (
    "`musegen VERB --help` says the same. Exit codes: 0 when done, 1 for a finding that was asked for (`--strict`,",
    "`--check`), 2 for what you can cure, told in one line, and 130 when interrupted.",
)


def pages() -> dict[str, str]:
    """All pages by file name."""
    made, index = {}, [MADE, "", "# Reference", "", *_preface(), "", "| module | |", "|---|---|"]
    for path, words in MAP_ROW.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        sections = [text for module in _modules(ROOT / path) if (text := _module(module))]
        if not sections:
            continue
        name = path.rstrip("/").removesuffix(".py").replace("/", ".")
        made[f"{name}.md"] = "\n".join([MADE, "", *sections]).rstrip() + "\n"
        index.append(f"| [`{name}`]({name}.md) | {words} |")
    made["command-line.md"] = _command_line()
    made["README.md"] = "\n".join(index) + "\n"
    return made


def _preface() -> list[str]:
    return textwrap.dedent("""\
        What is public, by module, in the order in which data flows; made from the docstrings by
        `python scripts/make_reference.py`. Names that begin with an underscore are not part of it, and what is not in
        the how-tos of [docs](../README.md) may change between minor versions.

        [The command line](command-line.md): every verb with its options.""").splitlines()


def _modules(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [path / "__init__.py", *sorted(p for p in path.glob("*.py") if p.name not in FOLDERS)]


def _module(path: Path) -> str:
    """One module as Markdown; nothing if it has neither a docstring nor a public name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    public = [node for node in tree.body if _is_documented(node)]
    head = ast.get_docstring(tree)
    if not public and not head:
        return ""
    parts = [f"# `{name}`", "", *_docstring(head or "")]
    for node in public:
        parts += _class(node) if isinstance(node, ast.ClassDef) else _function(node, "##")
    return "\n".join(parts) + "\n"


def _is_documented(node: ast.stmt) -> bool:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and not node.name.startswith("_") and bool(ast.get_docstring(node))


def _class(node: ast.ClassDef) -> list[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"## `{node.name}`", "", f"`class {node.name}({bases})`" if bases else f"`class {node.name}`", ""]
    parts += _docstring(ast.get_docstring(node) or "")
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and (_is_documented(inner) or inner.name == "__init__"):
            parts += _function(inner, "###", of=node.name) if ast.get_docstring(inner) else []
    return parts


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, level: str, of: str = "") -> list[str]:
    marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
    name = f"{of}.{node.name}" if of else node.name
    parts = [f"{level} `{name}`", ""]
    if marks & {"property", "cached_property"}:
        parts += [f"Property{': `' + ast.unparse(node.returns) + '`' if node.returns else ''}.", ""]
    else:
        parts += ["```python", _signature(node, name, method=bool(of) and "staticmethod" not in marks), "```", ""]
    return parts + _docstring(ast.get_docstring(node) or "")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, *, method: bool) -> str:
    """The call as one writes it: without `self`, one argument a line where a line is too short for all."""
    shown = ast.parse(ast.unparse(node)).body[0].args
    if method:
        first = shown.posonlyargs if shown.posonlyargs else shown.args
        del first[:1]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name.removesuffix('.__init__')}({ast.unparse(shown)}){returns}"
    if len(line) <= WIDTH:
        return line
    arguments = _split_arguments(ast.unparse(shown))
    return "\n".join([f"{name.removesuffix('.__init__')}(", *(f"    {one}," for one in arguments), f"){returns}"])


def _split_arguments(text: str) -> list[str]:
    """Arguments apart at the commas that no bracket or string encloses."""
    found, depth, start, quote = [], 0, 0, ""
    for at, sign in enumerate(text):
        if quote or sign in "'\"":
            quote = ("" if sign == quote else quote) if quote else sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "," and not depth:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def _docstring(text: str) -> list[str]:
    """A Google-style docstring as Markdown."""
    lines, out = text.splitlines(), []
    at = 0
    while at < len(lines):
        section = SECTION.match(lines[at])
        if not section:
            out.append(_escaped(lines[at]))
            at += 1
            continue
        at += 1
        body = []
        while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
            body.append(lines[at])
            at += 1
        out += [f"**{section[1]}**", "", *_items(textwrap.dedent("\n".join(body)).splitlines(), section[1]), ""]
    return [*out, ""] if text else []


def _items(lines: list[str], section: str) -> Iterator[str]:
    """The entries of a section as a list; returned values are plain text."""
    for line in lines:
        item = ITEM.match(line)
        if item and section not in ("Returns", "Yields"):
            yield f"- `{item[1]}`: {_escaped(item[2] or '')}".rstrip()
        elif line.strip():
            yield _escaped(f"  {line.strip()}" if section not in ("Returns", "Yields") else line)


def _escaped(line: str) -> str:
    """Text that Markdown would take for HTML, escaped outside of code."""
    if line.startswith("    "):
        return line
    parts = line.split("`")
    return "`".join(part if i % 2 else re.sub(r"<(?=[\w/!])", r"\\<", part) for i, part in enumerate(parts))


def _command_line() -> str:
    """Every verb with its arguments and options, from the command itself."""
    import typer

    from musegen.cli import app

    parts = [MADE, "", "# The command line", "", *_EXIT_CODES, ""]
    for path, command in _verbs("musegen", typer.main.get_command(app)):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join([path, *map(_usage, arguments), *(_usage(p) for p in options if p.required)])
        usage += " [OPTIONS]" if options else ""
        parts += [f"## `{path}`", "", _escaped(command.help or ""), "", f"`{usage}`", ""]
        if command.params:
            parts += ["| | default | |", "|---|---|---|"]
            parts += [_parameter_row(parameter) for parameter in [*arguments, *options]]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _verbs(path: str, command) -> Iterator[tuple[str, object]]:
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from _verbs(f"{path} {name}", inner)
        else:
            yield f"{path} {name}", inner


def _usage(parameter) -> str:
    name = parameter.name.upper().replace("_", "-") + ("..." if parameter.nargs == -1 else "")
    if parameter.param_type_name == "option":
        return f"{parameter.opts[0]} {name}"
    return name if parameter.required else f"[{name}]"


def _parameter_row(parameter) -> str:
    option = parameter.param_type_name == "option"
    name = ", ".join(parameter.opts) if option else _usage(parameter).strip("[]")
    value = "required" if parameter.required else parameter.default
    hidden = value is None or value is False or value in ("", []) or callable(value)
    shown = "" if hidden else f"`{value}`"
    return f"| `{name}` | {'required' if value == 'required' else shown} | {_escaped(parameter.help or '')} |"


def main() -> int:
    """Write the pages, or compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    made = {name: re.sub(r"\n{3,}", "\n\n", text) for name, text in pages().items()}
    here = {path.name: path.read_text(encoding="utf-8") for path in OUT.glob("*.md")} if OUT.is_dir() else {}
    stale = sorted(name for name in {*made, *here} if made.get(name) != here.get(name))
    if check:
        print(*(f"out of date: docs/reference/{name}" for name in stale), sep="\n", end="\n" if stale else "")
        return 1 if stale else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (OUT / name).write_text(made[name], encoding="utf-8")
        else:
            (OUT / name).unlink()
    print(f"docs/reference: {len(made)} pages, {len(stale)} of them changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

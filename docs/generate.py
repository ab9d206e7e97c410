"""Writes docs/python.md and docs/cli.md from the code; --check only says whether they are stale.

python docs/generate.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))
WIDTH = 110
PYTHON = """
`import secateur` loads nothing heavy: what is named below loads on first use. A network is pruned
in this process by [`secateur.prune`](#secateurprune); a service is used through
[`secateur.Client`](#secateurclient). What lies below, `search` and `latency_probes`, can be used
directly: [architecture.md](architecture.md).
"""
CALLS = """
Each returns a typed document (`api.routes.views`); `AsyncClient` has the same as coroutines.
"""
COMMAND_LINE = (
    """
`secateur --help` and `secateur COMMAND --help` say the same. Names stand wherever ids do. `--json`
writes one JSON document to standard output; in a pipe nothing is cut to a width. `secateur
--install-completion` completes commands and options in bash, zsh, fish and PowerShell.
""",
    """
Exit codes: 0 what was asked for happened, 1 it failed or was refused, 2 the command is wrong, 3
the budget of a job is out of reach, 4 a job was cancelled, 130 interrupted.
""",
)
# What only comes back from a call, so that nobody makes one.
RETURNED = ("Inspection", "Result")
NOTE = (
    "<!-- Written by `python docs/generate.py` from the code: change that, and run it again. -->"
)


def python_page() -> str:
    """The reference of the package."""
    import secateur
    from api import client as calls

    lines = ["# The Python package", "", NOTE, "", *wrapped(PYTHON, ""), ""]
    for name in secateur.__all__:
        found = getattr(secateur, name)
        if name == "__version__":
            lines += ["## secateur.\\_\\_version\\_\\_", "", "The version that is installed.", ""]
            continue
        lines += [f"## secateur.{name}", ""]
        is_error = inspect.isclass(found) and issubclass(found, Exception)
        if not is_error and name not in RETURNED:
            lines += ["```python", *signature(f"secateur.{name}", found), "```", ""]
        lines += [*docstring(found), ""]
        if inspect.isclass(found) and not issubclass(found, Exception):
            lines += members(name, found)
    lines += ["## The calls of a client", ""]
    lines += [*wrapped(CALLS, ""), ""]
    resources = {
        "models": calls.Models, "datasets": calls.Datasets, "jobs": calls.Jobs,
        "devices": calls.Devices, "checks": calls.Checks, "keys": calls.Keys,
    }  # fmt: skip
    for name, kind in resources.items():
        lines += [f"### client.{name}", ""]
        for method, function in inspect.getmembers(kind, inspect.isfunction):
            if not method.startswith("_"):
                told = first_sentence(function)
                lines += wrapped(f"- `{method}{short_signature(function)}`: {told}", "  ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def members(name: str, kind: type) -> list[str]:
    """The public methods and properties of a class, one line each."""
    lines = []
    for method, value in vars(kind).items():
        if method.startswith("_"):
            continue
        if isinstance(value, property):
            lines += wrapped(f"- `.{method}`: {first_sentence(value)}", "  ")
        elif inspect.isfunction(value):
            lines += wrapped(
                f"- `.{method}{short_signature(value)}`: {first_sentence(value)}", "  "
            )
    return [*lines, ""] if lines else []


def signature(name: str, found: Any) -> list[str]:
    """A call on lines that are not too long."""
    shown = inspect.signature(found)
    parts = [_typed(part) for part in shown.parameters.values()]
    keyword_only = [
        index
        for index, part in enumerate(shown.parameters.values())
        if part.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if keyword_only:
        parts.insert(keyword_only[0], "*")
    line = f"{name}({', '.join(parts)})"
    if len(line) <= WIDTH:
        return [line]
    return [f"{name}(", *(f"    {part}," for part in parts), ")"]


def _typed(part: inspect.Parameter) -> str:
    """An argument with its type and default; annotations are strings here."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    told = f"{stars.get(part.kind, '')}{part.name}: {part.annotation}"
    return told if part.default is inspect.Parameter.empty else f"{told} = {part.default!r}"


def short_signature(function: Any) -> str:
    """Names and defaults of the arguments, without `self` and types."""
    parts = []
    star = False
    for part in inspect.signature(function).parameters.values():
        if part.name == "self":
            continue
        if part.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        has_default = part.default is not inspect.Parameter.empty
        default = "…" if callable(part.default) else repr(part.default)
        parts.append(f"{part.name}={default}" if has_default else part.name)
    return f"({', '.join(parts)})"


def first_sentence(found: Any) -> str:
    """Of a docstring, in one line."""
    paragraph = (inspect.getdoc(found) or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def docstring(found: Any) -> Iterator[str]:
    """A Google docstring as Markdown: its sections become lists."""
    section = False
    text = inspect.getdoc(found) or ""
    if inspect.isclass(found) and not found.__doc__:
        text = ""
    entry: list[str] = []
    for line in [*text.splitlines(), ""]:
        if re.fullmatch(r"(Args|Attributes|Raises|Returns):", line):
            section = True
            yield f"**{line[:-1]}**"
            yield ""
            continue
        if not section or not line.strip():
            if entry:
                yield from wrapped("- " + " ".join(entry), "  ")
                entry = []
            if line.strip() and not line.startswith(" "):
                section = False
            yield line
            continue
        if re.match(r"    \S", line) and re.match(r"    [\w.]+: ", line):
            if entry:
                yield from wrapped("- " + " ".join(entry), "  ")
            name, _, rest = line.strip().partition(": ")
            entry = [f"`{name}`: {rest}"]
        else:
            entry.append(line.strip())


def wrapped(text: str, indent: str) -> list[str]:
    """Text in lines of the page's width."""
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def cli_page() -> str:
    """The reference of the command line."""
    import typer

    from api.cli.main import app

    command = typer.main.get_command(app)
    lines = ["# The command line", "", NOTE, ""]
    for text in COMMAND_LINE:
        lines += [*wrapped(text, ""), ""]
    for path, each in commands("secateur", command):
        lines += [f"## {path}", "", *wrapped(" ".join((each.help or "").split()), ""), ""]
        arguments = [p for p in each.params if p.param_type_name == "argument" and not p.hidden]
        options = [
            p
            for p in each.params
            if p.param_type_name == "option" and not p.hidden and "--help" not in p.opts
        ]
        usage = " ".join(_argument(p) for p in arguments)
        lines += ["```text", f"{path} {usage} [OPTIONS]".replace("  ", " "), "```", ""]
        for parameter in arguments:
            if parameter.help:
                lines += wrapped(f"- `{parameter.name.upper()}`: {parameter.help}", "  ")
        for parameter in options:
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            lines += wrapped(f"- {names}: {parameter.help or ''}{_default(parameter)}", "  ")
        if arguments or options:
            lines.append("")
        if each.epilog:
            lines += [*_epilog(inspect.cleandoc(each.epilog)), ""]
    return "\n".join(lines).rstrip() + "\n"


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name."""
    for name, each in command.commands.items():
        if each.hidden:
            continue
        if hasattr(each, "commands"):
            yield from commands(f"{path} {name}", each)
        else:
            yield f"{path} {name}", each


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("…" if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _default(parameter: Any) -> str:
    words = []
    if parameter.required:
        words.append("required")
    elif not parameter.is_flag and parameter.default not in (None, "", [], ()):
        value = getattr(parameter.default, "value", parameter.default)
        words.append(f"default: `{value}`")
    if parameter.envvar:
        words.append(f"`{parameter.envvar}`")
    return f" ({', '.join(words)})" if words else ""


def _epilog(text: str) -> Iterator[str]:
    """Examples become blocks of shell, the rest stays text."""
    for block in text.split("\n\n"):
        if block.startswith("    "):
            yield from ["```sh", *textwrap.dedent(block).splitlines(), "```", ""]
        else:
            yield from [*wrapped(" ".join(block.split()), ""), ""]


PAGES = {"python.md": python_page, "cli.md": cli_page}


def main() -> None:
    """Writes the pages, or compares them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, re.sub(r"\n{3,}", "\n\n", page())
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)} must be as the code is: run python docs/generate.py")


if __name__ == "__main__":
    main()

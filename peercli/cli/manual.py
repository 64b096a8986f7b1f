"""The manual pages, in mdoc: made from the command tree where they repeat it, written where they teach.

What is written is in `man/parts`: of a command's page what follows the generated sections, from EXAMPLES
on; of other pages all but the head. Blocks after a comment `run` or `start` are run by the tests.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from peercli.cli.exits import Exit
from peercli.cli.library import library
from peercli.cli.roff import head, literal, prose
from peercli.cli.tree import Node, Option, tree
from peercli.protocol import manifest, pipe, resume, transfer

__all__ = ["pages"]

_PROTOCOLS = (("Pipe", pipe), ("Files", transfer), ("Files: the manifest", manifest), ("Resuming", resume))


def pages(parts: Path) -> dict[str, str]:
    """Every page by the name of its file.

    Args:
        parts: the folder with what is written by hand, `<page>.mdoc` each.

    Raises:
        FileNotFoundError: a part is missing.
    """
    root = tree()
    made = {"peercli.1": _overview(root, _part(parts, "peercli.1"))}
    for node in root.nodes:
        name = f"peercli-{node.name}.1"
        made[name] = _command(node, _part(parts, name))
    start = head("peercli-config", 5, "the configuration file of peercli")
    made["peercli-config.5"] = start + _part(parts, "peercli-config.5")
    start = head(
        "peercli-protocols", 7, "the protocols that peercli speaks over a data channel, for page authors"
    )
    made["peercli-protocols.7"] = start + _protocols() + _part(parts, "peercli-protocols.7")
    start = head("peercli-security", 7, "whom peercli talks to, and what others can see and do")
    made["peercli-security.7"] = start + _part(parts, "peercli-security.7")
    made["peercli-library.3"] = library() + _part(parts, "peercli-library.3")
    return made


def _part(parts: Path, name: str) -> str:
    return (parts / f"{name}.mdoc").read_text()


def _overview(root: Node, part: str) -> str:
    commands = "".join(f".It Xr peercli-{node.name} 1\n{prose(node.summary)}.\n" for node in root.nodes)
    files, examples = part.split(".Sh EXAMPLES\n")
    return (
        head("peercli", 1, root.summary)
        + ".Sh SYNOPSIS\n.Nm peercli\n.Ar command\n.Op Ar options\n.Op Ar arguments\n"
        + f".Sh DESCRIPTION\n{_paragraphs(root.help)}"
        + f".Ss Commands\n.Bl -tag -width Ds\n{commands}.El\n"
        + f".Ss Options\n{_options(root.options)}"
        + _environment([option for node in root.walk() for option in node.options])
        + files
        + f".Sh EXIT STATUS\n.Bl -tag -width Ds\n{_exits()}.El\n"
        + f".Sh EXAMPLES\n{examples}"
    )


def _command(node: Node, part: str) -> str:
    name = f"peercli-{node.name}"
    return (
        head(name, 1, node.summary[:1].lower() + node.summary[1:])
        + f".Sh SYNOPSIS\n{''.join(map(_synopsis, [each for each in node.walk() if not each.nodes]))}"
        + f".Sh DESCRIPTION\n{_paragraphs(node.help)}"
        + "".join(_body(each, inner=each is not node) for each in node.walk() if not each.nodes)
        + _environment([option for each in node.walk() for option in each.options])
        + ".Sh EXIT STATUS\n0 when all is done; the other codes are told in\n.Xr peercli 1 .\n"
        + part
        + ".Sh SEE ALSO\n.Xr peercli 1 ,\n.Xr peercli-config 5\n"
    )


def _synopsis(node: Node) -> str:
    lines = [f".Nm peercli {' '.join(node.path)}", ".Op Ar options"]
    for argument in node.arguments:
        more = " ..." if argument.repeats else ""
        lines.append(f".{'Ar' if argument.required else 'Op Ar'} {argument.metavar}{more}")
    return "\n".join(lines) + "\n"


def _body(node: Node, *, inner: bool) -> str:
    head = f".Ss {' '.join(node.path[1:])}\n{_paragraphs(node.help)}" if inner else ""
    arguments = "".join(f".It Ar {argument.metavar}\n{prose(argument.help)}\n" for argument in node.arguments)
    if arguments:
        head += f".Bl -tag -width Ds\n{arguments}.El\n"
    panels = dict.fromkeys(option.panel for option in node.options)
    for panel in panels:
        title = f".Ss {panel}\n" if panel and not inner else "" if inner else ".Ss Options\n"
        head += title + _options([option for option in node.options if option.panel == panel])
    return head


def _options(options: object) -> str:
    assert isinstance(options, list | tuple)
    return f".Bl -tag -width Ds\n{''.join(map(_option, options))}.El\n"


def _option(option: Option) -> str:
    value = f" Ar {option.metavar}" if option.metavar else ""
    names = " , ".join(f"Fl {name[1:]}" for name in reversed(option.names))
    default = f" By default {option.default}." if option.default else ""
    return f".It {names}{value}\n{prose(option.explained + default)}\n"


def _environment(options: list[Option]) -> str:
    named = {option.environment: option.names[0] for option in options if option.environment}
    if not named:
        return ""
    entries = "".join(
        f".It Ev {variable}\nWhat\n.Fl {name[1:]}\nis, unless that is given.\n"
        for variable, name in sorted(named.items())
    )
    return f".Sh ENVIRONMENT\n.Bl -tag -width Ds\n{entries}.El\n"


def _exits() -> str:
    return "".join(f".It {code.value}\n{prose(code.when)}\n" for code in Exit)


def _protocols() -> str:
    chapters = "".join(f".Ss {title}\n{_docstring(module.__doc__ or '')}" for title, module in _PROTOCOLS)
    return f".Sh DESCRIPTION\n{chapters}"


_FORMS = {
    "text": ".Pp\n{}\n",
    "aside": ".Bd -filled -offset indent\n{}\n.Ed\n",
    "code": ".Bd -literal -offset indent\n{}\n.Ed\n",
}


def _docstring(text: str) -> str:
    """The documentation of a module, which is the specification: paragraphs, code, and what explains code."""
    made = ""
    for block in text.strip().split("\n\n"):
        for form, run in groupby(block.split("\n"), _form):
            lines = list(run)
            body = "\n".join(map(_code, lines)) if form == "code" else prose(" ".join(map(str.strip, lines)))
            made += _FORMS[form].format(body)
    return made.removeprefix(".Pp\n")


def _form(line: str) -> str:
    if not line.startswith("    "):
        return "text"
    return "code" if line.strip()[0] in '{"' else "aside"


def _code(line: str) -> str:
    return literal(line[4:])


def _paragraphs(paragraphs: tuple[str, ...]) -> str:
    return "\n.Pp\n".join(map(prose, paragraphs)) + "\n"

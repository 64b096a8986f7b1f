"""Completion scripts for four shells, made from the command tree.

They know the commands, options and values by themselves, so that a Tab costs no start of Python; only for ids
and profiles do they ask `peercli complete`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from peercli.cli.shells import Shell

if TYPE_CHECKING:
    from peercli.cli.tree import Argument, Node, Option

__all__ = ["FILES", "script"]

FILES = {
    Shell.BASH: "peercli.bash",
    Shell.ZSH: "_peercli",
    Shell.FISH: "peercli.fish",
    Shell.POWERSHELL: "peercli.ps1",
}
"""What the scripts are called in `completions/`."""

_HEAD = "# Completion of peercli, made from its command tree by `peercli --show-completion`.\n"


def script(shell: Shell) -> str:
    """The completion script for a shell."""
    from peercli.cli.tree import tree

    makers = {Shell.BASH: _bash, Shell.ZSH: _zsh, Shell.FISH: _fish, Shell.POWERSHELL: _powershell}
    return makers[shell](tree())


# bash -----------------------------------------------------------------------------------------


def _bash(root: Node) -> str:
    # bash takes no empty key: commands end in "-" here.
    nodes = list(root.walk())
    words = {
        f"{_at(node)}-": [
            *(each.name for each in node.nodes),
            *(name for each in node.options for name in each.names),
        ]
        for node in nodes
    }
    values = {
        f"{_at(node)} {name}": option.values or [option.kind and f"@{option.kind}"]
        for node in nodes
        for option in node.options
        for name in option.names
        if option.metavar
    }
    places = {
        f"{_at(node)}-": [
            f"@{argument.kind or 'nothing'}" + "*" * argument.repeats for argument in node.arguments
        ]
        for node in nodes
        if node.arguments
    }
    return f"""{_HEAD}
declare -gA _peercli_words=({_bash_table(words)})
declare -gA _peercli_values=({_bash_table(values)})
declare -gA _peercli_places=({_bash_table(places)})

_peercli_offer() {{
    local line
    case $1 in
        @files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        @folders) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        @ids | @profiles)
            while IFS= read -r line; do
                COMPREPLY+=("$(printf %q "$line")")
            done < <(peercli complete "${{1#@}}" "$cur" 2>/dev/null) ;;
        @*) ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur") ;;
    esac
}}

_peercli() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command= word= previous= option= position=0 i places
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        # bash cuts words at : and =, which ids and addresses may hold
        if [[ $word == [:=] || $previous == [:=] ]]; then previous=$word; continue; fi
        previous=$word
        if [[ $option ]]; then option=; continue; fi
        if [[ ${{_peercli_words[${{command:+$command }}$word-]+there}} ]]; then
            command=${{command:+$command }}$word
        elif [[ ${{_peercli_values["$command $word"]+there}} ]]; then
            option=$word
        elif [[ $word != -* ]]; then
            ((position++))
        fi
    done
    if [[ $cur == [:=] || $previous == [:=] ]]; then return; fi
    if [[ $option ]]; then
        _peercli_offer "${{_peercli_values["$command $option"]}}"
        return
    fi
    read -ra places <<< "${{_peercli_places[$command-]}}"
    if [[ $cur == -* || ${{#places[@]}} == 0 ]]; then
        _peercli_offer "${{_peercli_words[$command-]}}"
    elif [[ ${{places[-1]}} == *\\* && $position -ge ${{#places[@]}} ]]; then
        _peercli_offer "${{places[-1]%\\*}}"
    else
        _peercli_offer "${{places[position]%\\*}}"
    fi
}}
complete -F _peercli peercli
"""


def _bash_table(table: Mapping[str, Iterable[str]]) -> str:
    return "".join(f'\n    ["{key}"]="{" ".join(words)}"' for key, words in table.items()) + "\n"


def _at(node: Node) -> str:
    return " ".join(node.path)


# zsh ------------------------------------------------------------------------------------------

_ZSH_ACTIONS = {
    "ids": "_peercli_ids",
    "profiles": "_peercli_profiles",
    "files": "_files",
    "folders": "_files -/",
}


def _zsh(root: Node) -> str:
    functions = "\n".join(_zsh_function(node) for node in root.walk())
    return f"""#compdef peercli
{_HEAD}
_peercli_asked() {{
    local -a found=("${{(@f)$(peercli complete $1 "$PREFIX" 2>/dev/null)}}")
    compadd -a found
}}
_peercli_ids() {{ _peercli_asked ids }}
_peercli_profiles() {{ _peercli_asked profiles }}

{functions}
if [[ $funcstack[1] == _peercli ]]; then _peercli "$@"; else compdef _peercli peercli; fi
"""


def _zsh_function(node: Node) -> str:
    name = "_".join(("_peercli", *node.path))
    specs = [spec for option in node.options for spec in _zsh_option(option)]
    for argument in node.arguments:
        number = "*" if argument.repeats else ""
        action = _ZSH_ACTIONS.get(argument.kind, "")
        specs.append(f"'{number}{'' if argument.required else ':'}:{_zsh_text(argument.metavar)}:{action}'")
    if not node.nodes:
        return f"{name}() {{\n    _arguments -s \\\n        {' '.join(_lines(specs))}\n}}\n"
    commands = " ".join(f"'{each.name}:{_zsh_text(each.summary)}'" for each in node.nodes)
    cases = "\n".join(
        f"            {each.name}) {'_'.join(('_peercli', *each.path))} ;;" for each in node.nodes
    )
    return f"""{name}() {{
    local curcontext="$curcontext" state line
    typeset -A opt_args
    _arguments -C \\
        {" ".join(_lines(specs))} \\
        '1: :->command' '*:: :->rest'
    case $state in
    command)
        local -a commands=({commands})
        _describe command commands ;;
    rest)
        case $words[1] in
{cases}
        esac ;;
    esac
}}
"""


def _lines(specs: Iterable[str]) -> list[str]:
    return [" \\\n        ".join(specs)]


def _zsh_option(option: Option) -> list[str]:
    star = "*" if option.repeats else f"({' '.join(option.names)})"
    value = ""
    if option.metavar:
        action = f"({' '.join(option.values)})" if option.values else _ZSH_ACTIONS.get(option.kind, " ")
        value = f":{_zsh_text(option.metavar)}:{action}"
    help = f"[{_zsh_text(option.help)}]{value}"
    return [f"'{star}{name}{'=' if value and name.startswith('--') else ''}{help}'" for name in option.names]


def _zsh_text(text: str) -> str:
    for character in "\\:[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''")


# fish -----------------------------------------------------------------------------------------

_FISH_VALUES = {
    "ids": "(peercli complete ids (commandline -ct) 2>/dev/null)",
    "profiles": "(peercli complete profiles (commandline -ct) 2>/dev/null)",
    "folders": "(__fish_complete_directories)",
}


def _fish(root: Node) -> str:
    lines = [_HEAD.rstrip(), "complete -c peercli -f"]
    for node in root.walk():
        when = _fish_condition(root, node)
        for each in node.nodes:
            lines.append(f"complete -c peercli {when} -a {each.name} -d {_quoted(each.summary)}")
        for option in node.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            lines.append(f"complete -c peercli {when} {names}{_fish_value(option)} -d {_quoted(option.help)}")
        for argument in node.arguments:
            lines.extend(f"complete -c peercli {when} {words}" for words in _fish_argument(argument))
    return "\n".join(lines) + "\n"


def _fish_condition(root: Node, node: Node) -> str:
    tests = [f"__fish_seen_subcommand_from {name}" for name in node.path]
    if node.nodes:
        tests.append(f"not __fish_seen_subcommand_from {' '.join(each.name for each in node.nodes)}")
    return f"-n '{'; and '.join(tests)}'"


def _fish_value(option: Option) -> str:
    if not option.metavar:
        return ""
    if option.kind == "files":
        return " -r -F"
    values = " ".join(option.values) or _FISH_VALUES.get(option.kind, "")
    return f" -x -a {_quoted(values)}" if values else " -x"


def _fish_argument(argument: Argument) -> list[str]:
    if argument.kind == "files":
        return ["-F"]
    return [f"-a {_quoted(_FISH_VALUES[argument.kind])}"] if argument.kind in _FISH_VALUES else []


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# PowerShell -----------------------------------------------------------------------------------


def _powershell(root: Node) -> str:
    tables = "\n".join(
        f"    '{_at(node)}' = @({', '.join(_powershell_entries(node))})" for node in root.walk()
    )
    values = "\n".join(
        f"    '{_at(node)} {name}' = @({', '.join(map(_single, option.values))})"
        for node in root.walk()
        for option in node.options
        for name in option.names
        if option.values
    )
    asks = "\n".join(
        f"    '{_at(node)} {name}' = '{option.kind}'"
        for node in root.walk()
        for option in node.options
        for name in option.names
        if option.kind in ("ids", "profiles")
    )
    ids = ", ".join(
        f"'{_at(node)}'" for node in root.walk() if any(each.kind == "ids" for each in node.arguments)
    )
    return f"""{_HEAD}
$PeercliWords = @{{
{tables}
}}
$PeercliValues = @{{
{values}
}}
$PeercliAsks = @{{
{asks}
}}
$PeercliTakesId = @({ids})

Register-ArgumentCompleter -Native -CommandName peercli -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $command = ''
    $previous = ''
    foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {{
        if ($element.Extent.EndOffset -ge $cursorPosition) {{ break }}
        $previous = "$element"
        $longer = "$command $previous".Trim()
        if ($PeercliWords.ContainsKey($longer)) {{ $command = $longer }}
    }}
    $found = if ($PeercliValues.ContainsKey("$command $previous")) {{ $PeercliValues["$command $previous"] }}
        elseif ($PeercliAsks.ContainsKey("$command $previous")) {{
            peercli complete $PeercliAsks["$command $previous"] "$wordToComplete" 2>$null
        }}
        elseif ($PeercliTakesId -contains $command -and -not "$wordToComplete".StartsWith('-')) {{
            peercli complete ids "$wordToComplete" 2>$null
        }}
        else {{ $PeercliWords[$command] }}
    $found | Where-Object {{ $_ -like "$wordToComplete*" }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }}
}}
"""


def _powershell_entries(node: Node) -> list[str]:
    names = [each.name for each in node.nodes] + [name for option in node.options for name in option.names]
    return [_single(name) for name in names]


def _single(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

"""Completes the commands in a shell: `eval "$(python -m experiments.completion)"`.

Then Tab completes `python -m experiments.<command>`, its settings, config groups and their values.
In zsh, `autoload -U bashcompinit && bashcompinit` comes first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.cli.completion import completions, shell_function


def main(arguments: list[str]) -> None:
    """Prints what a shell evaluates, or the completions of a line that it passes.

    Args:
        arguments: none, --help, or the beginning of a command line.
    """
    if arguments == ["--help"]:
        print(__doc__)
    elif arguments:
        commands = [path.stem for path in Path(__file__).parent.glob("[a-z]*.py")]
        print("\n".join(completions(arguments[0], commands)))
    else:
        print(shell_function(sys.executable))


if __name__ == "__main__":
    main(sys.argv[1:])

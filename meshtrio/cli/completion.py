"""`meshtrio completion`: a script for shell completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print a script that completes commands and names.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands, options, and names of the mesh.

    \b
    bash: eval "$(meshtrio completion bash)"        in ~/.bashrc
    zsh:  eval "$(meshtrio completion zsh)"         in ~/.zshrc
    fish: meshtrio completion fish | source         in ~/.config/fish/config.fish

    Names of plugins, groups and services come from the running mesh, if there is one.
    """
    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root()
    click.echo(made(root.command, {}, "meshtrio", "_MESHTRIO_COMPLETE").source())

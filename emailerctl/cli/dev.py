"""stub"""

from typer import Context


def dev(ctx: Context) -> None:
    """X

    Example: emailerctl dev
    """

"""From an exception to a sentence on standard error and an exit code (house.md §8)."""

from typer import TyperException

from emailerctl.cli import output
from emailerctl.errors import EmailerError, Invalid

INTERRUPTED = 130


def report(error: EmailerError) -> int:
    """Say what is wrong, all faults of it, and what to do; return the exit code."""
    if output.shows_traces():
        output.show_trace(error)
    if isinstance(error, Invalid) and len(error.faults) > 1:
        lines = [f"{fault.pointer or '/'}: {fault.detail}" for fault in error.faults]
        output.error(
            "\n".join([f"{len(lines)} faults", *(f"  {line}" for line in lines)]),
            hint=error.cure,
        )
    else:
        output.error(error.detail, hint=error.cure)
    return error.exit_code


def report_usage(error: TyperException) -> int:
    """Say which word of the command line is wrong, and where it is explained."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "emailerctl"
    output.error(error.format_message(), hint=f"{path} --help")
    return error.exit_code

"""`emailerctl templates`: a folder of templates, published, looked at and tried out."""

import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import output, session, template_variables
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes, templates
from emailerctl.core.templates import Publication
from emailerctl.errors import NotFound, UsageError
from emailerctl.store.base import StoredTemplate, TemplateVersion
from emailerctl.templates.base import SHARED, Compiled, Rendered, decode_head
from emailerctl.templates.folder import STARTERS, read_files, read_folders, write_files

if TYPE_CHECKING:
    from emailerctl.wiring import App

app = Typer(help="Templates: from a folder into the store, looked at, tried, rolled back.")

Name = Annotated[str, Argument(metavar="NAME", help="The template's name.")]
Folder = Annotated[
    Path, Argument(metavar="DIR", help="The folder with one folder for each template.")
]
Only = Annotated[list[str] | None, Argument(metavar="[NAME…]", help="These only; else all.")]

_REFUSED = 65
_WEIGHT = ("error", "warning", "note")


class Part(StrEnum):
    """What of a rendered template is wanted."""

    ALL = "all"
    SUBJECT = "subject"
    TEXT = "text"
    HTML = "html"


@app.command("list")
def list_(ctx: Context) -> None:
    """List the templates, each in its version in force.

    Example: emailerctl templates list
    """
    _show_versions(ctx, None)


@app.command()
def versions(ctx: Context, name: Name) -> None:
    """List the versions of a template, newest first.

    Example: emailerctl templates versions welcome
    """
    _show_versions(ctx, name)


def _show_versions(ctx: Context, name: str | None) -> None:
    async def work(opened: "App") -> tuple[list[TemplateVersion], int]:
        found = await opened.store.list_template_versions(name)
        if name is not None and not found:
            known = [one.name for one in await opened.store.list_template_versions()]
            raise templates.build_not_found(name, known)
        return found, opened.clock.now_ms()

    found, now_ms = session.run(ctx, work)

    def row(one: TemplateVersion) -> list[Cell]:
        head = decode_head(one.head)
        return [
            one.name,
            one.version,
            one.is_current,
            " ".join([head.locale, *filter(None, head.variants)]) if head.variants else None,
            ", ".join(head.schema.get("properties", ())) or None,
            Moment(one.published_ms, now_ms),
            one.actor,
        ]

    output.listing(
        "Templates" if name is None else f"Versions of {name}",
        ("name", "version", "in force", "languages", "variables", "published", "by"),
        found,
        shape=shapes.template_shape,
        row=row,
        name="name" if name is None else "version",
    )


@app.command()
def show(
    ctx: Context,
    name: Name,
    version: Annotated[
        str, Option(metavar="VERSION", help="Or its beginning; else the one in force.")
    ] = "",
) -> None:
    """Show the files of a template.

    Example: emailerctl templates show welcome
    """

    async def work(opened: "App") -> StoredTemplate:
        return await templates.load(opened.store, name, version)

    stored = session.run(ctx, work)
    pieces = [f"{stored.name} {stored.version}"]
    pieces += [f"\n─── {file}\n{text.rstrip()}" for file, text in stored.files.items()]
    output.result("\n".join(pieces), shapes.stored_template_shape(stored) | {"id": name})


@app.command()
def put(
    ctx: Context,
    name: Name,
    folder: Annotated[Path, Argument(metavar="DIR", help="The folder of this template.")],
) -> None:
    """Publish one template from its folder.

    Example: emailerctl templates put welcome templates/welcome
    """
    _publish(ctx, {name: read_files(folder)}, removes_others=False, is_rehearsal=False)


@app.command()
def push(
    ctx: Context,
    folder: Folder,
    prune: Annotated[
        bool, Option("--prune", help="Take templates that are not in the folder out of force.")
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything, and change nothing.")
    ] = False,
) -> None:
    """Publish every template of a folder, or none: all faults are named with file and line.

    What is unchanged gets no new version.

    Example: emailerctl templates push templates
    """
    given = read_folders(folder)
    if prune and not dry_run:
        output.ask(f"Take out of force what is not in {folder}?")
    _publish(ctx, given, removes_others=prune, is_rehearsal=dry_run)


def _publish(
    ctx: Context,
    given: Mapping[str, Mapping[str, str]],
    *,
    removes_others: bool,
    is_rehearsal: bool,
) -> None:
    async def work(opened: "App") -> Publication:
        return await templates.publish(
            opened.store,
            opened.renderer,
            opened.clock,
            given,
            actor=session.build_caller().name,
            removes_others=removes_others,
            is_rehearsal=is_rehearsal,
        )

    done = session.run(ctx, work)
    would = "would be " if is_rehearsal else ""
    lines = [f"{name} {would}published: {version}" for name, version in done.published.items()]
    lines += [f"{name} {would}removed" for name in done.removed]
    lines += [f"{name} unchanged" for name in done.unchanged]
    for name, found in done.findings.items():
        for one in found:
            if one.level == "warning":
                output.warn(f"{name}/{one.place}: {one.detail}")
    output.result("\n".join(lines), shapes.publication_shape(done))


@app.command()
def pull(ctx: Context, folder: Folder, names: Only = None) -> None:
    """Write what is in force into a folder; asks before it replaces what differs there.

    Example: emailerctl templates pull templates
    """
    current = _load_current(ctx, names)
    changed = {
        name: files
        for name, files in current.items()
        if not (folder / name).is_dir() or read_files(folder / name) != files
    }
    replaced = [name for name in changed if (folder / name).is_dir()]
    if replaced:
        output.ask(f"Replace {', '.join(replaced)} in {folder}?")
    for name, files in changed.items():
        write_files(folder / name, files)
    said = [f"{name} written" for name in changed] or ["nothing differs"]
    output.result("\n".join(said), {"written": list(changed)})


@app.command()
def diff(
    ctx: Context,
    folder: Folder,
    names: Only = None,
    check: Annotated[
        bool, Option("--check", help="Exit 65 if anything differs, for CI.")
    ] = False,
) -> None:
    """Show what a push would change: from what is in force to what is in the folder.

    Example: emailerctl templates diff templates
    """
    current, given = _load_current(ctx, None), read_folders(folder)
    wanted = names or sorted(given.keys() | current.keys())
    differing = [n for n in wanted if current.get(n) != given.get(n)]
    lines = [
        line
        for name in differing
        for line in _compare(name, current.get(name, {}), given.get(name, {}))
    ]
    output.result("\n".join(lines) or "nothing differs", {"differing": differing})
    if check and differing:
        raise Exit(_REFUSED)


def _compare(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for file in sorted(old.keys() | new.keys()):
        before, after = old.get(file, ""), new.get(file, "")
        lines += difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            f"in force/{name}/{file}" if file in old else "/dev/null",
            f"folder/{name}/{file}" if file in new else "/dev/null",
            lineterm="",
        )
    return lines


def _load_current(ctx: Context, names: Sequence[str] | None) -> dict[str, dict[str, str]]:
    async def work(opened: "App") -> list[StoredTemplate]:
        return await opened.store.list_templates()

    current = {one.name: dict(one.files) for one in session.run(ctx, work)}
    for name in names or ():
        if name not in current:
            raise templates.build_not_found(name, list(current))
    return {name: current[name] for name in names} if names else current


@app.command()
def rollback(
    ctx: Context,
    name: Name,
    version: Annotated[
        str, Argument(metavar="[VERSION]", help="Or its beginning; else the one before.")
    ] = "",
) -> None:
    """Put an earlier version in force, at once and for all processes.

    Example: emailerctl templates rollback welcome
    """

    async def work(opened: "App") -> str:
        return await opened.store.roll_back_template(
            name, version, actor=session.build_caller().name, now_ms=opened.clock.now_ms()
        )

    put_in_force = session.run(ctx, work)
    output.result(
        f"{name} {put_in_force} is in force",
        {"id": name, "name": name, "version": put_in_force},
    )


@app.command("rm")
def remove(ctx: Context, name: Name) -> None:
    """Take a template out of force; its versions stay, and a rollback brings them back.

    Example: emailerctl templates rm welcome --yes
    """
    output.ask(f"Take the template {name} out of force?")

    async def work(opened: "App") -> None:
        actor = session.build_caller().name
        await templates.remove(opened.store, opened.clock, name, actor=actor)

    session.run(ctx, work)
    output.result(f"{name} is out of force", {"id": name, "name": name})


@app.command()
def render(
    ctx: Context,
    name: Name,
    var: template_variables.Words = None,
    file: template_variables.File = None,
    locale: template_variables.Locale = None,
    folder: Annotated[
        Path | None,
        Option("--dir", metavar="DIR", help="From this folder instead of the store."),
    ] = None,
    part: Annotated[Part, Option(help="What of it.")] = Part.ALL,
) -> None:
    """Render a template and send nothing; what no variable is given for has its example.

    Example: emailerctl templates render welcome --var name=Ann --part html > welcome.html
    """

    async def work(opened: "App") -> tuple[StoredTemplate, Rendered]:
        if folder is None:
            stored = await templates.load(opened.store, name)
        else:
            stored = await _compile_one(opened, folder, name)
        head = decode_head(stored.bundle)
        given = template_variables.read_variables(head.schema, var, file)
        variables = {**head.examples, **given}
        key = f"{name} {stored.version}"
        rendered = await opened.renderer.render(
            key, stored.bundle, variables, locale or "", name
        )
        return stored, rendered

    if name == SHARED:
        raise NotFound(f"{SHARED} holds what templates share, and is none itself")
    stored, rendered = session.run(ctx, work)
    whole = f"Subject: {rendered.subject}\n\n{rendered.text}"
    said = {
        Part.ALL: whole,
        Part.SUBJECT: rendered.subject,
        Part.TEXT: rendered.text,
        Part.HTML: rendered.html,
    }[part]
    if part is Part.HTML and output.form() is output.Form.TABLE:
        output.write_raw(said.encode())
    else:
        output.result(said.rstrip("\n"), shapes.rendered_shape(stored, rendered))


async def _compile_one(opened: "App", folder: Path, name: str) -> StoredTemplate:
    given = read_folders(folder)
    if name not in given:
        raise templates.build_not_found(name, list(given))
    compiled = await opened.renderer.compile(name, given[name], given.get(SHARED, {}))
    templates.require_good(name, compiled)
    return StoredTemplate(name, compiled.version, given[name], compiled.bundle or b"", ())


@app.command()
def lint(
    ctx: Context,
    folder: Folder,
    names: Only = None,
    strict: Annotated[
        bool, Option("--strict", help="Warnings are refused as errors are.")
    ] = False,
) -> None:
    """Say what is wrong with the templates of a folder, and what some inbox will not like.

    Exits 65 if something is in error: a push would refuse it.

    Example: emailerctl templates lint templates
    """
    given = read_folders(folder)
    shared = given.get(SHARED, {})
    wanted = [name for name in given if name != SHARED]
    for name in names or ():
        if name not in wanted:
            raise templates.build_not_found(name, wanted)
    compiled = compile_folder(ctx, {name: given[name] for name in names or wanted}, shared)
    found = sorted(
        {
            (SHARED if one.file in shared else name, one)
            for name, result in compiled.items()
            for one in result.findings
        },
        key=lambda pair: (pair[0], _WEIGHT.index(pair[1].level), pair[1].file, pair[1].line),
    )
    output.listing(
        "Findings",
        ("level", "where", "what"),
        found,
        shape=lambda pair: shapes.finding_shape(*pair),
        row=lambda pair: [pair[1].level, f"{pair[0]}/{pair[1].place}", pair[1].detail],
        name="file",
    )
    counts = {level: sum(one.level == level for _name, one in found) for level in _WEIGHT}
    if counts["error"] or (strict and counts["warning"]):
        output.error(f"{counts['error']} errors, {counts['warning']} warnings")
        raise Exit(_REFUSED)


def compile_folder(
    ctx: Context, given: Mapping[str, Mapping[str, str]], shared: Mapping[str, str]
) -> dict[str, Compiled]:
    """Compile templates of a folder; no store is needed."""
    import asyncio

    from emailerctl.wiring import build_renderer

    settings = session.load_settings(ctx)

    async def work() -> dict[str, Compiled]:
        renderer = build_renderer(settings)
        try:
            return {
                name: await renderer.compile(name, files, shared)
                for name, files in given.items()
            }
        finally:
            await renderer.close()

    return asyncio.run(work())


@app.command()
def preview(
    ctx: Context,
    folder: Folder,
    port: Annotated[
        int, Option(metavar="PORT", min=0, max=65535, help="0 takes a free one.")
    ] = 0,
) -> None:
    """Show the templates of a folder in a browser on this machine, as they are edited.

    Desktop, mobile and dark; text part and source; a form for the variables.

    Example: emailerctl templates preview templates
    """
    from emailerctl.cli.template_preview import run

    read_folders(folder)
    run(session.load_settings(ctx), folder, port)


@app.command()
def init(folder: Folder) -> None:
    """Write the starter templates into a folder: a point to begin from.

    Example: emailerctl templates init templates
    """
    given = read_folders(STARTERS)
    there = [name for name in given if (folder / name).exists()]
    if there:
        raise UsageError(
            f"{folder} has {', '.join(there)} already; nothing was written",
            hint="name another folder",
        )
    for name, files in given.items():
        write_files(folder / name, files)
    output.result("\n".join(f"{folder}/{name}" for name in given), {"written": list(given)})
    output.note(f"look at them: emailerctl templates preview {folder}")

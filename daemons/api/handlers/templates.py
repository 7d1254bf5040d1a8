"""`/v1/templates`: publish, show, render, roll back, remove."""

from typing import ClassVar

from daemons.api.handlers.base import ADMINS, READERS, SENDERS, Handler
from daemons.api.schemas import parse_files, parse_query, parse_rendering, parse_version
from emailerctl.core import shapes, templates


class Templates(Handler):
    """`/v1/templates`."""

    scopes: ClassVar = {"GET": READERS}

    async def get(self) -> None:
        """List the templates, each in its version in force."""
        found = await self.app.store.list_template_versions()
        self.reply(shapes.listing_shape([shapes.template_shape(one) for one in found]))


class Template(Handler):
    """`/v1/templates/{name}`."""

    scopes: ClassVar = {"GET": READERS, "PUT": ADMINS, "DELETE": ADMINS}

    async def get(self, name: str) -> None:
        """Show a template with its files; `version` is one, or its beginning."""
        query = parse_query(self.request.query_arguments, {"version": str})
        stored = await templates.load(self.app.store, name, query.get("version", ""))
        self.reply(shapes.stored_template_shape(stored))

    async def put(self, name: str) -> None:
        """Publish a template: its files, by their names."""
        publication = await templates.publish_one(
            self.app.store,
            self.app.renderer,
            self.app.clock,
            name,
            parse_files(self.parse_object()),
            actor=self.caller.name,
        )
        self.reply(shapes.publication_shape(publication))

    async def delete(self, name: str) -> None:
        """Take a template out of force."""
        await templates.remove(self.app.store, self.app.clock, name, actor=self.caller.name)
        self.reply_empty()


class TemplateVersions(Handler):
    """`/v1/templates/{name}/versions`."""

    scopes: ClassVar = {"GET": READERS}

    async def get(self, name: str) -> None:
        """List the versions of a template, newest first."""
        found = await self.app.store.list_template_versions(name)
        if not found:
            raise templates.build_not_found(name, [])
        self.reply(shapes.listing_shape([shapes.template_shape(one) for one in found]))


class TemplateRollback(Handler):
    """`/v1/templates/{name}/rollback`."""

    scopes: ClassVar = {"POST": ADMINS}

    async def post(self, name: str) -> None:
        """Put another version in force; without `version` the one before."""
        version = parse_version(self.parse_object(is_optional=True))
        put = await self.app.store.roll_back_template(
            name, version, actor=self.caller.name, now_ms=self.app.clock.now_ms()
        )
        self.reply({"name": name, "version": put})


class TemplateRendering(Handler):
    """`/v1/templates/{name}/render`."""

    scopes: ClassVar = {"POST": SENDERS | ADMINS}

    async def post(self, name: str) -> None:
        """Render a template and send nothing."""
        variables, locale = parse_rendering(self.parse_object())
        stored, rendered = await templates.render(
            self.app.store,
            self.app.renderer,
            name,
            variables,
            locale,
            lane=self.caller.service,
        )
        self.reply(shapes.rendered_shape(stored, rendered))

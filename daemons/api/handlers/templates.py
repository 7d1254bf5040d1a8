"""`/v1/templates`: publish, show, render, roll back, remove."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

from daemons.api.handlers.base import ADMINS, READERS, SENDERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import (
    FILES_BODY,
    RENDERING_BODY,
    VERSION_BODY,
    Parse,
    parse_files,
    parse_query,
    parse_rendering,
    parse_version,
)
from emailerctl.core import shapes, templates
from emailerctl.core.answers import (
    PublicationShape,
    RenderedShape,
    StoredTemplateShape,
    TemplateNameShape,
    TemplateShape,
)

_ONE: Mapping[str, Parse] = {"version": str}


class Templates(Handler):
    """`/v1/templates`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(answer=TemplateShape, is_listing=True)}

    async def get(self) -> None:
        """List the templates, each in its version in force."""
        found = await self.app.store.list_template_versions()
        self.reply(shapes.listing_shape([shapes.template_shape(one) for one in found]))


class Template(Handler):
    """`/v1/templates/{name}`."""

    scopes: ClassVar = {"GET": READERS, "PUT": ADMINS, "DELETE": ADMINS}
    operations: ClassVar = {
        "GET": Operation(query=_ONE, answer=StoredTemplateShape),
        "PUT": Operation(body=FILES_BODY, required=("files",), answer=PublicationShape),
        "DELETE": Operation(status=HTTPStatus.NO_CONTENT),
    }

    async def get(self, name: str) -> None:
        """Show a template with its files; `version` is one, or its beginning."""
        query = parse_query(self.request.query_arguments, _ONE)
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
    operations: ClassVar = {"GET": Operation(answer=TemplateShape, is_listing=True)}

    async def get(self, name: str) -> None:
        """List the versions of a template, newest first."""
        found = await self.app.store.list_template_versions(name)
        if not found:
            raise templates.build_not_found(name, [])
        self.reply(shapes.listing_shape([shapes.template_shape(one) for one in found]))


class TemplateRollback(Handler):
    """`/v1/templates/{name}/rollback`."""

    scopes: ClassVar = {"POST": ADMINS}
    operations: ClassVar = {"POST": Operation(body=VERSION_BODY, answer=TemplateNameShape)}

    async def post(self, name: str) -> None:
        """Put another version in force; without `version` the one before."""
        version = parse_version(self.parse_object(is_optional=True))
        put = await self.app.store.roll_back_template(
            name, version, actor=self.caller.name, now_ms=self.app.clock.now_ms()
        )
        restored: TemplateNameShape = {"name": name, "version": put}
        self.reply(restored)


class TemplateRendering(Handler):
    """`/v1/templates/{name}/render`."""

    scopes: ClassVar = {"POST": SENDERS | ADMINS}
    operations: ClassVar = {"POST": Operation(body=RENDERING_BODY, answer=RenderedShape)}

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

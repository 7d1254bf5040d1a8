"""Templates in the store: versions stay, one is in force, and nobody overwrites unseen."""

import pytest

from emailerctl.errors import Conflict, NotFound
from emailerctl.models.event import Event
from emailerctl.models.page import EventFilter
from emailerctl.store.base import StoredTemplate
from tests.desk import Desk

WHO = {"actor": "ann", "now_ms": 5}


def build(name: str, version: str) -> StoredTemplate:
    return StoredTemplate(name, version, {"body.txt": version}, version.encode(), ("foot.txt",))


async def publish(desk: Desk, *templates: StoredTemplate, **seen: str) -> None:
    await desk.store.publish_templates(templates, seen=seen, actor="ann", now_ms=5)


async def list_changes(desk: Desk) -> list[Event]:
    return await desk.store.list_events(EventFilter(), after_seq=0, limit=100)


async def test_a_version_is_found_with_its_content_unless_that_is_known(desk: Desk) -> None:
    one = build("a", "v1")
    await publish(desk, one)

    assert await desk.store.find_template("a") == one
    known = await desk.store.find_template("a", known="v1")
    assert known is not None
    assert (known.version, known.bundle, known.files) == ("v1", b"", {})
    assert await desk.store.find_template("b") is None
    assert await desk.store.list_templates() == [one]
    with pytest.raises(NotFound):
        await desk.store.load_template("a", "v2")


async def test_who_has_not_seen_what_is_in_force_changes_nothing(desk: Desk) -> None:
    await publish(desk, build("a", "v1"))
    for seen in ({}, {"a": "v0"}, {"a": "v1", "b": "v1"}):
        with pytest.raises(Conflict):
            await publish(desk, build("a", "v2"), build("c", "v1"), **seen)
    await publish(desk, build("a", "v2"), build("c", "v1"), a="v1")

    current = {one.name: one.version for one in await desk.store.list_templates()}
    assert current == {"a": "v2", "c": "v1"}
    said = [(event.type, event.data["template"]) for event in await list_changes(desk)]
    assert said == [("template.changed", name) for name in ("a", "a", "c")]


async def test_back_and_forth_and_out_of_force(desk: Desk) -> None:
    await publish(desk, build("a", "v1"))
    with pytest.raises(Conflict):
        await desk.store.roll_back_template("a", "", **WHO)
    await publish(desk, build("a", "v2"), a="v1")
    assert await desk.store.roll_back_template("a", "", **WHO) == "v1"
    assert await desk.store.roll_back_template("a", "", **WHO) == "v2"
    assert await desk.store.roll_back_template("a", "v1", **WHO) == "v1"
    for prefix in ("v", "x"):
        with pytest.raises(NotFound):
            await desk.store.roll_back_template("a", prefix, **WHO)
    with pytest.raises(NotFound):
        await desk.store.roll_back_template("b", "", **WHO)
    assert await desk.store.remove_template("a", **WHO)
    assert not await desk.store.remove_template("a", **WHO)
    assert [one.is_current for one in await desk.store.list_template_versions("a")] == [
        False
    ] * 2
    assert await desk.store.roll_back_template("a", "", **WHO) == "v2"
    await publish(desk, build("b", "v1"), a="v2")
    await desk.store.publish_templates(
        [], removed=["a"], seen={"a": "v2", "b": "v1"}, actor="ann", now_ms=5
    )
    assert [one.name for one in await desk.store.list_template_versions()] == ["b"]


async def test_a_message_shows_the_version_that_it_was_rendered_with(desk: Desk) -> None:
    message_id = await desk.add("ann@example.org", template="a", template_version="v1")
    view = await desk.store.find_message(message_id)

    assert view is not None
    assert (view.template, view.template_version) == ("a", "v1")

"""What the API says of itself: OpenAPI 3.1, written from its routes and from what they use.

Paths are those of the route table, methods and scopes those of its handlers, query parameters
those that are parsed, bodies the pydantic models that read them, answers the types that the
shapes are checked against, problems the classes of `emailerctl/errors.py`.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

import emailerctl
from daemons.api.schemas import Parse, describe_parser
from emailerctl import errors

if TYPE_CHECKING:
    from daemons.api.handlers.base import Handler

Schema = dict[str, Any]

JSON, PROBLEM = "application/json", "application/problem+json"

_REFS = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{([a-z_]+)}")
_IMPLIED = frozenset(
    {"HEAD", "OPTIONS"}
)  # of what can be got, or asked about before it is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a method of a path takes and answers, beside what its handler says itself.

    Attributes:
        summary: what it does, where the handler's method does several things.
        answer: the type of the body (core/answers.py); None: no body, or no JSON.
        is_listing: the answer is `{"data": […], "next_cursor": …}` of those.
        also: further statuses that are no problem, with the type of their body.
        query: each parameter with its parser.
        body: a model; or the members of an object, where nothing else reads it.
        required: of those members.
        refused: members of the model that this version refuses but for these values.
        media_type: of the answer.
        or_text: a further media type of it, which is not described.
        takes: the media type of the body.
        headers: of the request, with what they are for.
        refusals: further ones than its form implies.
    """

    summary: str = ""
    answer: object = None
    is_listing: bool = False
    status: HTTPStatus = HTTPStatus.OK
    also: Mapping[HTTPStatus, object] = field(default_factory=dict)
    query: Mapping[str, Parse] = field(default_factory=dict)
    body: type[BaseModel] | Mapping[str, Schema] | None = None
    required: tuple[str, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    media_type: str = JSON
    or_text: str = ""
    takes: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[type[errors.EmailerError], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and what answers there.

    Attributes:
        path: `{name}` stands for one part of it, which the handler's methods get in order.
        fixed: what they get after those.
        described: the operations, where they are not those of the handler.
    """

    path: str
    handler: "type[Handler]"
    fixed: tuple[str, ...] = ()
    described: Mapping[str, Operation] | None = None

    @property
    def operations(self) -> Mapping[str, Operation]:
        """What the path can be asked, by method."""
        return self.handler.operations if self.described is None else self.described

    def find_undescribed(self) -> frozenset[str]:
        """Return the methods that nothing is said about."""
        return frozenset(self.handler.methods) - _IMPLIED - self.operations.keys()


def build_document(routes: Iterable[Route]) -> Schema:
    """Return the whole document."""
    routes = tuple(routes)
    types = _Types(operation for route in routes for operation in route.operations.values())
    paths: dict[str, Schema] = {}
    for route in routes:
        items = paths.setdefault(route.path, {})
        for method, operation in route.operations.items():
            items[method.lower()] = _describe(route, method, operation, types)
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "emailerctl",
            "version": emailerctl.__version__,
            "description": "Outbound e-mail that is never lost and never sent twice. "
            "Repeat a request with the same Idempotency-Key as often as you like: it is one "
            "message.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": _describe_problem(), **types.components},
            "responses": {"Problem": _refer_to_problem()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    # The types are called after what they are the shape of.
    text = json.dumps(document).replace('Shape"', '"')
    renamed: Schema = json.loads(text)
    return renamed


class _Types:
    """The schemas of all models and types, each once, by name."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        operations = tuple(operations)
        found = (kind for o in operations for kind in (o.answer, *o.also.values()))
        kinds = [kind for kind in dict.fromkeys(found) if kind is not None]
        schemas, self.components = msgspec.json.schema_components(kinds, ref_template=_REFS)
        self._schemas = dict(zip(kinds, schemas, strict=True))
        for operation in operations:
            if isinstance(operation.body, type):
                self._add_model(operation.body, operation.refused)

    def _add_model(
        self, model: type[BaseModel], refused: Mapping[str, tuple[str, ...]]
    ) -> None:
        schema = model.model_json_schema(ref_template=_REFS.replace("name", "model"))
        self.components |= schema.pop("$defs", {})
        self.components[model.__name__] = schema
        for name, values in refused.items():
            del schema["properties"][name]
            if values:
                schema["properties"][name] = {"enum": [*values, None]}

    def describe(self, kind: object, *, is_listing: bool) -> Schema:
        """Return the schema of an answer."""
        schema: Schema = self._schemas[kind]
        if not is_listing:
            return schema
        cursor = {"type": ["string", "null"], "description": "of the next page"}
        return _describe_object(
            {"data": {"type": "array", "items": schema}, "next_cursor": cursor}
        )


def _describe(route: Route, method: str, operation: Operation, types: _Types) -> Schema:
    handler = route.handler
    said = inspect.getdoc(getattr(handler, method.lower())) or ""
    summary, _, more = said.partition("\n\n")
    scopes = sorted(handler.scopes.get(method, ()))
    if scopes:
        more = f"{more}\n\nScope: {' or '.join(scopes)}.".strip()
    names = [*_PARAMETER.findall(route.path)]
    schema: Schema = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": operation.summary or " ".join(summary.split()),
        "tags": [_name_tag(route.path)],
        "parameters": [*_describe_parameters(names, operation)],
        "responses": _describe_answers(route, method, operation, types),
    }
    if more:
        schema["description"] = more
    if scopes:
        schema["security"] = [{"token": []}]
    if operation.body is not None:
        schema["requestBody"] = _describe_body(operation)
    return schema


_REFUSED: Schema = {"$ref": "#/components/responses/Problem"}


def _name_tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[1] if parts[0] == "v1" else "service"


def _describe_parameters(names: Iterable[str], operation: Operation) -> Iterator[Schema]:
    for name in names:
        schema: Schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    for name, parse in operation.query.items():
        yield {"name": name, "in": "query", "schema": describe_parser(parse)}
    for name, purpose in operation.headers.items():
        schema = {"type": "string"}
        yield {"name": name, "in": "header", "schema": schema, "description": purpose}


def _describe_body(operation: Operation) -> Schema:
    body = operation.body
    schema: Schema
    if isinstance(body, type):
        schema = {"$ref": _REFS.format(name=body.__name__)}
    elif body:
        schema = _describe_object(body, operation.required)
    else:
        schema = {}  # whatever its sender writes
    is_needed = isinstance(body, type) or bool(operation.required)
    return {"required": is_needed, "content": {operation.takes: {"schema": schema}}}


def _describe_object(
    members: Mapping[str, Schema], required: Iterable[str] | None = None
) -> Schema:
    return {
        "type": "object",
        "properties": dict(members),
        "required": list(members if required is None else required),
        "additionalProperties": False,
    }


def _describe_answers(route: Route, method: str, operation: Operation, types: _Types) -> Schema:
    answers: Schema = {}
    for status, kind in {operation.status: operation.answer, **operation.also}.items():
        content: Schema = {}
        if kind is not None:
            schema = types.describe(kind, is_listing=operation.is_listing)
            content[operation.media_type] = {"schema": schema}
        elif operation.media_type != JSON:
            content[operation.media_type] = {"schema": {"type": "string"}}
        if operation.or_text:
            content[operation.or_text] = {"schema": {"type": "string"}}
        answers[str(status.value)] = {"description": status.phrase}
        if content:
            answers[str(status.value)]["content"] = content
    for status in _list_refusals(route, method, operation):
        answers.setdefault(str(status.value), _REFUSED)
    return answers | {"default": _REFUSED}


def _list_refusals(route: Route, method: str, operation: Operation) -> Iterator[HTTPStatus]:
    """Yield the statuses of the problems that a request may meet, in order, each once."""
    found: set[type[errors.EmailerError]] = {*operation.refusals, errors.Unavailable}
    if route.handler.scopes.get(method):
        found |= {errors.Unauthorized, errors.Forbidden, errors.TooManyRequests}
    if operation.query:
        found.add(errors.BadRequest)
    if _PARAMETER.search(route.path):
        found.add(errors.NotFound)
    if operation.body is not None:
        found |= {errors.PayloadTooLarge, errors.BadRequest}
        if operation.takes == JSON:
            found |= {errors.UnsupportedMediaType, errors.Invalid}
    yield from sorted({error.status for error in found})


def find_problems() -> list[type[errors.EmailerError]]:
    """Return every deliberate error that the API may answer with, by code."""
    found = [
        item
        for item in vars(errors).values()
        if inspect.isclass(item) and issubclass(item, errors.EmailerError)
    ]
    return sorted(found, key=lambda error: error.code)


def _describe_problem() -> Schema:
    text: Schema = {"type": "string"}
    fault = {
        "type": "object",
        "properties": {"pointer": text, "parameter": text, "detail": text},
    }
    return {
        "type": "object",
        "description": "A refusal (RFC 9457); docs/problems.md has a section for each code.",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"enum": [error.code for error in find_problems()]},
            "request_id": text,
            "hint": text,
            "errors": {"type": "array", "items": fault, "description": "All faults at once."},
        },
        "required": ["type", "title", "status", "detail", "code", "request_id"],
    }


def _refer_to_problem() -> Schema:
    schema: Schema = {"$ref": _REFS.format(name="Problem")}
    return {
        "description": "Refused, or not now",
        "headers": {
            "Retry-After": {"schema": {"type": "integer"}, "description": "with 429 and 503"}
        },
        "content": {PROBLEM: {"schema": schema}},
    }

"""What the API says of itself is what it does: every route, described and tried."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from daemons.api.handlers.base import Handler, Unknown
from daemons.api.openapi import Operation, Route, build_document, find_problems
from daemons.api.routes import ROUTES, find_handler
from tests import corpora
from tests.api.case import MESSAGE
from tests.api.serving import open_api

DOCUMENT = build_document(ROUTES)
VENDORED = Path(__file__).parents[2] / "daemons/api/swagger_ui"
STREAM = "text/event-stream"
pytestmark = pytest.mark.timeout(120)
EXAMPLES = 3  # that fit a method's description, and as many that do not


def find_kinds(kind: type[Handler]) -> Iterator[type[Handler]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from find_kinds(inner)


def test_every_route_is_described_and_every_handler_has_one() -> None:
    assert {route.path: route.find_undescribed() for route in ROUTES} == {
        route.path: frozenset() for route in ROUTES
    }
    routed = {route.handler for route in ROUTES}
    mute = [
        kind
        for kind in find_kinds(Handler)
        if kind.__module__.startswith("daemons.") and kind not in {*routed, Unknown}
    ]
    assert [kind.__name__ for kind in mute if not kind.__name__.startswith("_")] == []
    for route in ROUTES:
        for operation in DOCUMENT["paths"][route.path].values():
            assert operation["summary"], route.path


def test_a_route_without_an_entry_would_be_found() -> None:
    class Silent(Handler):
        async def get(self) -> None: ...

        async def post(self) -> None: ...

    assert Route("/x", Silent).find_undescribed() == {"GET", "POST"}
    said = Route("/x", Silent, (), {"GET": Operation()})
    assert said.find_undescribed() == {"POST"}
    del Silent


def test_paths_lead_to_their_handlers() -> None:
    for route in ROUTES:
        names = re.findall(r"{\w+}", route.path)
        kind, arguments = find_handler(re.sub(r"{\w+}", "a%2Fb", route.path))

        assert (kind, arguments) == (route.handler, ("a/b",) * len(names) + route.fixed)
    for path in ("/v1/messages/", "/v1/messages/a/b/c", "/v1/messages/%FF", "", "/docs/a/b"):
        assert find_handler(path) == (Unknown, ())


def test_problems_and_references_are_complete() -> None:
    text = json.dumps(DOCUMENT)
    for kind, name in set(re.findall(r"#/components/(\w+)/(\w+)", text)):
        assert name in DOCUMENT["components"][kind]
    codes = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert codes == [error.code for error in find_problems()]


def test_the_page_is_what_its_makers_publish() -> None:
    """T-26: the hashes that were noted when the files were taken over."""
    noted = (VENDORED / "README.md").read_text(encoding="utf-8")
    sums = dict(re.findall(r"^\| `([\w.-]+)` \| `([0-9a-f]{64})` \|$", noted, re.MULTILINE))
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDORED.iterdir()
        if path.name not in {"README.md", "start.js"}
    }

    assert sums == present


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API as a process of its own, and a client that may do everything there."""
    folder = tmp_path_factory.mktemp("openapi")
    with open_api(folder) as (process, token), process.client(token) as client:
        client.headers["Connection"] = "keep-alive"
        yield client
    log = process.log.read_text()
    assert "failed" not in log, log[-5000:]


def find_operations() -> list[Any]:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    return [found.ok() for found in schema.get_all_operations()]


OPERATIONS = find_operations()
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def is_endless(operation: Any) -> bool:
    answers = operation.definition.raw["responses"]
    return STREAM in answers.get("200", {}).get("content", {})


def find_statuses(api: httpx.Client, operation: Any, mode: GenerationMode) -> set[int]:
    """Send what fits the description, or what does not; return what was answered."""
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def attempt(case: Any) -> None:
        response = case.call(
            base_url=str(api.base_url).rstrip("/"),
            headers={"Authorization": api.headers["Authorization"]},
        )
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    attempt()
    return statuses


def can_be_wrong(operation: Any) -> bool:
    """Tell whether there is anything in a request that has a form."""
    raw = operation.definition.raw
    has_form = any(
        content["schema"] for content in raw.get("requestBody", {}).get("content", {}).values()
    )
    return has_form or any(one["in"] == "query" for one in raw["parameters"])


def test_whatever_is_sent_the_answer_is_as_described(api: httpx.Client) -> None:
    """No input whatever earns a 5xx (product.md §3.2)."""
    seen: dict[str, set[int]] = {}
    for operation in OPERATIONS:
        if not is_endless(operation):
            seen[operation.label] = find_statuses(api, operation, GenerationMode.POSITIVE)
        if not is_endless(operation) and can_be_wrong(operation):
            seen[operation.label] |= find_statuses(api, operation, GenerationMode.NEGATIVE)

    assert all(seen.values())


FILES = {
    "template.toml": '[variables.who]\ntype = "string"\nrequired = true\nexample = "Ann"\n',
    "subject.txt": "Hello {{ who }}",
    "body.html": "<p>Hello {{ who }}</p>",
}
# What a good request of a method is; the others need none, or the state is not there for it.
BODIES: Mapping[str, object] = {
    "POST /v1/messages": MESSAGE,
    "POST /v1/messages/batch": {"messages": [MESSAGE]},
    "POST /v1/messages/{id}/reschedule": {"send_in": "1h"},
    "POST /v1/suppressions": {"address": "gone@example.net"},
    "PUT /v1/templates/{name}": {"files": FILES},
    "POST /v1/templates/{name}/render": {"variables": {"who": "Ann"}},
}
NOT_NOW = {
    "GET /v1/jobs/{id}": 404,
    "POST /v1/messages/{id}/release": 409,
    "POST /v1/messages/{id}/resolve": 422,
    "POST /v1/reports/{provider}": 404,
    "POST /v1/reports/{provider}/{secret}": 404,
    "GET /u/{link}": 404,
    "POST /u/{link}": 404,
}


def test_good_answers_are_as_described(api: httpx.Client) -> None:
    """Of every method, with something to tell: a message, its events, a suppression."""
    answered = {}
    older = {**FILES, "subject.txt": "Good morning {{ who }}"}  # what can be gone back to
    for operation in OPERATIONS:
        if is_endless(operation):
            continue
        message = api.post("/v1/messages", json=MESSAGE).json()["id"]
        for files in (older, FILES) if "/templates/{name}" in operation.path else ():
            assert api.put("/v1/templates/relay", json={"files": files}).status_code == 200
        found = {"id": message, "address": "gone@example.net", "name": "relay"}
        found |= {"provider": "relay", "secret": "x", "link": "x", "file": "start.js"}
        body = BODIES.get(operation.label)
        path = operation.path.format(**found)
        answer = api.request(operation.method.upper(), path, json=body)
        answered[operation.label] = answer.status_code
        operation.validate_response(answer)

    wrong = {label: status for label, status in answered.items() if status >= 300}
    assert wrong == NOT_NOW


def test_the_corpora_over_every_route(api: httpx.Client) -> None:
    """T-12: strings in every part of a request, documents as every body; no 5xx."""
    asked = [operation for operation in OPERATIONS if not is_endless(operation)]
    with_body = [one for one in asked if "requestBody" in one.definition.raw]
    requests = [
        request
        for operation, text in zip(cycle(asked), corpora.naughty_strings(), strict=False)
        for request in build_requests(api, operation, text)
    ]
    for operation, (_name, octets) in zip(
        cycle(with_body), corpora.json_documents(""), strict=False
    ):
        requests.append(build_request(api, operation, octets))
    wrong = []
    for request in requests:
        answer = api.send(request)
        if answer.status_code >= 500:
            wrong.append((request.method, request.url, request.content, answer.text))

    assert len(requests) > 800
    assert wrong == []


def build_request(api: httpx.Client, operation: Any, octets: bytes) -> httpx.Request:
    """Return a request with that body."""
    path = re.sub(r"{\w+}", "x", operation.path)
    headers = {"Content-Type": "application/json"}
    return api.build_request(operation.method.upper(), path, content=octets, headers=headers)


def build_requests(api: httpx.Client, operation: Any, text: str) -> Iterator[httpx.Request]:
    """Yield requests with *text* wherever there is room for it."""
    raw = operation.definition.raw
    value = text[:300].encode("utf-8", "replace")
    path = re.sub(r"{\w+}", lambda _found: quote(value, safe=""), operation.path)
    names = [one["name"] for one in raw["parameters"] if one["in"] == "query"]
    method = operation.method.upper()
    yield api.build_request(method, path, params=dict.fromkeys(names, value))
    if "requestBody" in raw:
        (media_type,) = raw["requestBody"]["content"]
        headers = {"Content-Type": media_type.replace("*/*", "application/json")}
        members = dict.fromkeys(find_members(raw), text) | {text: text}
        yield api.build_request(method, path, json=members, headers=headers)


def find_members(raw: Mapping[str, Any]) -> list[str]:
    """Return what the body of a request may have."""
    (content,) = raw["requestBody"]["content"].values()
    schema = content["schema"]
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("properties", {}))

"""`/v1/templates`, and messages that name one."""

from collections.abc import Mapping
from email import message_from_bytes
from email.policy import default
from typing import Any, ClassVar

from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.page import EventFilter
from tests.api.case import Answer, ApiCase

TOML = """\
from = "Shop <shop@example.org>"
tags = ["receipt"]
on_unknown = "resend"
expires_in = "15m"

[variables.name]
type = "string"
required = true
example = "Ann"

[variables.code]
type = "string"
required = true
sensitive = true
example = "123456"

[variables.total]
type = "number"
minimum = 0
example = 12.5

[variables.day]
type = "date"
example = "2026-11-24"
"""
FILES: Mapping[str, str] = {
    "template.toml": TOML,
    "subject.txt": "{{ name }}, your code is {{ code }}",
    "subject.de.txt": "{{ name }}, Ihr Code ist {{ code }}",
    "body.html": (
        "<style>p { color: red }</style><p>Hello {{ name }}: <b>{{ code }}</b></p>"
        "{% if total %}<p>{{ total|currency('EUR') }}{% if day %} on {{ day|date('long') }}"
        "{% endif %}</p>{% endif %}"
    ),
    "body.de.html": "<p>Guten Tag {{ name }}: {{ code }}, {{ total|currency('EUR') }}</p>",
}
USE: dict[str, Any] = {
    "name": "code",
    "variables": {"name": "Ann <b>", "code": "987654", "total": 1234.5, "day": "2026-02-01"},
}


class TemplatesCase(ApiCase):
    overrides: ClassVar[Mapping[str, str]] = {"templates__cpu": "200ms"}

    def put(self, name: str = "code", **files: str | None) -> Answer:
        given = {**FILES, **{n.replace("__", "."): text for n, text in files.items()}}
        kept = {n: text for n, text in given.items() if text is not None}
        return self.call("PUT", f"/v1/templates/{name}", {"files": kept})

    def send_with(
        self, token: str | None = None, key: str | None = None, **more: Any
    ) -> Answer:
        fields: dict[str, Any] = {"from": None, "subject": None, "text": None}
        return self.send(token, key, **{**fields, "template": USE, **more})

    def load_raw(self, public: str) -> bytes:
        message_id = parse_public(MESSAGE, public)
        assert message_id is not None
        raw = self.wait(self.app.store.load_raw(message_id))
        assert isinstance(raw, bytes)
        return raw


class PublishingTest(TemplatesCase):
    def test_published_shown_listed_rolled_back_and_removed(self) -> None:
        first = self.put()
        assert first.status == 200, first.octets
        again = self.put()
        second = self.put(subject__txt="Hi {{ name }} {{ code }}")
        [one] = [v["version"] for v in first.json["published"]]
        [two] = [v["version"] for v in second.json["published"]]

        assert (again.json["published"], again.json["unchanged"]) == ([], ["code"])
        [listed] = self.call("GET", "/v1/templates").json["data"]
        assert (listed["name"], listed["version"], listed["actor"]) == ("code", two, "root")
        assert (listed["locales"], listed["variables"]) == (
            ["de"],
            ["name", "code", "total", "day"],
        )
        shown = self.call("GET", f"/v1/templates/code?version={one[:6]}").json
        assert shown["files"] == dict(FILES)
        assert shown["examples"]["name"] == "Ann"
        assert "code" not in shown["examples"]  # sensitive
        versions = self.call("GET", "/v1/templates/code/versions").json["data"]
        assert [(v["version"], v["current"]) for v in versions] == [(two, True), (one, False)]

        rolled = self.call("POST", "/v1/templates/code/rollback", {})
        assert rolled.json == {"name": "code", "version": one}
        rolled = self.call("POST", "/v1/templates/code/rollback", {"version": two[:8]})
        assert rolled.json["version"] == two
        answer = self.call("POST", "/v1/templates/code/rollback", {"version": two})
        self.assert_problem(answer, 409, "conflict")

        assert self.call("DELETE", "/v1/templates/code").status == 204
        self.assert_problem(self.call("DELETE", "/v1/templates/code"), 404, "not_found")
        self.assert_problem(self.call("GET", "/v1/templates/code"), 404, "not_found")
        answer = self.send_with()
        self.assert_problem(answer, 422, "invalid")
        assert "/template/name" in answer.pointers
        assert self.call("POST", "/v1/templates/code/rollback").json["version"] == two

    def test_all_that_is_wrong_comes_at_once_with_its_line_and_nothing_changes(self) -> None:
        answer = self.put(
            template__toml=f"colour = 1\n{TOML}[variables.x]\ntype = 'text'\n",
            subject__txt="{{ nme }}",
            body__html="<p>\n{{ name|upcase }}</p>",
            body__de__html="{% if %}",
            body__fr__mjml="<mjml><mj-body><mj-sektion></mj-sektion></mj-body></mjml>",
            readme__md="x",
        )

        self.assert_problem(answer, 422, "invalid")
        said = {error["pointer"]: error["detail"] for error in answer.json["errors"]}
        assert set(said) >= {
            "/files/template.toml",
            "/files/subject.txt",
            "/files/body.html",
            "/files/body.de.html",
            "/files/body.fr.mjml",
            "/files/readme.md",
        }, said
        assert said["/files/body.html"].startswith("line 2: ")
        assert "upcase" in said["/files/body.html"]
        assert "mj-sektion" in said["/files/body.fr.mjml"]
        assert self.call("GET", "/v1/templates").json["data"] == []

    def test_shared_files_take_along_what_uses_them(self) -> None:
        shared = {"files": {"foot.html": "<p>Shop, Vienna</p>"}}
        assert self.call("PUT", "/v1/templates/_shared", shared).status == 200
        self.put(body__html="<p>{{ name }}{{ code }}</p>{% include 'foot.html' %}")
        self.put("other")
        before = {
            t["name"]: t["version"] for t in self.call("GET", "/v1/templates").json["data"]
        }
        shared["files"]["foot.html"] = "<p>Shop, Graz</p>"
        answer = self.call("PUT", "/v1/templates/_shared", shared)

        assert {one["name"] for one in answer.json["published"]} == {"code", "_shared"}
        after = {
            t["name"]: t["version"] for t in self.call("GET", "/v1/templates").json["data"]
        }
        assert after["code"] != before["code"]
        assert after["other"] == before["other"]
        rendered = self.call(
            "POST", "/v1/templates/code/render", {"variables": USE["variables"]}
        )
        assert "Graz" in rendered.json["html"]
        broken = {"files": {"foot.html": "<p>{{ street }}</p>"}}
        answer = self.call("PUT", "/v1/templates/_shared", broken)
        self.assert_problem(answer, 422, "invalid")
        assert answer.pointers == ["/code/foot.html"]
        self.assert_problem(self.call("DELETE", "/v1/templates/_shared"), 409, "conflict")
        answer = self.call("POST", "/v1/templates/_shared/render", {})
        self.assert_problem(answer, 404, "not_found")

    def test_scopes_and_bad_bodies(self) -> None:
        reader = self.make_token("reader", "read")
        for method, path in (
            ("PUT", "/v1/templates/a"),
            ("DELETE", "/v1/templates/a"),
            ("POST", "/v1/templates/a/rollback"),
            ("POST", "/v1/templates/a/render"),
        ):
            self.assert_problem(self.call(method, path, {}, token=reader), 403, "forbidden")
        for body in ({}, {"files": {}}, {"files": {"subject.txt": 1}}, {"files": [], "x": 1}):
            answer = self.call("PUT", "/v1/templates/a", body)
            self.assert_problem(answer, 422, "invalid")
        for name in ("A", "a.b", "x" * 65):
            answer = self.call("PUT", f"/v1/templates/{name}", {"files": {"subject.txt": "x"}})
            self.assert_problem(answer, 422, "invalid")
        answer = self.call("PUT", "/v1/templates/_shared", {"files": {"a.css": "x"}})
        assert answer.pointers == ["/files/a.css"]
        answer = self.put(**{"../x.html": "x"})
        assert answer.pointers == ["/files/../x.html"]
        answer = self.call(
            "POST", "/v1/templates/a/render", {"variables": 1, "locale": 1, "x": 1}
        )
        assert set(answer.pointers) == {"/variables", "/locale", "/x"}
        self.assert_problem(self.call("GET", "/v1/templates/a/versions"), 404, "not_found")


class SendingTest(TemplatesCase):
    def setUp(self) -> None:
        super().setUp()
        answer = self.put()
        self.version = answer.json["published"][0]["version"]

    def test_round_trip(self) -> None:
        """What was asked for is what two parsers read in the bytes."""
        sent = self.send_with(template={**USE, "locale": "de-AT"}, tags=["vip", "receipt"])
        assert sent.status == 202, sent.octets
        raw = self.load_raw(sent.json["id"])
        shown = self.call("GET", f"/v1/messages/{sent.json['id']}").json

        modern = message_from_bytes(raw, policy=default)
        assert modern["subject"] == "Ann <b>, Ihr Code ist 987654"
        assert modern["from"] == "Shop <shop@example.org>"
        html = modern.get_body(("html",)).get_content()  # type: ignore[union-attr]
        assert html.strip() == "<p>Guten Tag Ann &lt;b&gt;: 987654, €\xa01.234,50</p>"
        text = modern.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert text.strip() == "Guten Tag Ann <b>: 987654, €\xa01.234,50"
        old = message_from_bytes(raw)  # compat32: the parser of the old policy
        parts = [
            part.get_payload(decode=True).decode()
            for part in old.walk()
            if not part.is_multipart()
        ]  # type: ignore[union-attr]
        assert [part.strip() for part in parts] == [text.strip(), html.strip()]
        assert (shown["template"], shown["template_version"]) == ("code", self.version)
        assert (shown["tags"], shown["on_unknown"]) == (["receipt", "vip"], "resend")
        assert shown["expires_at"] == "2026-11-24T10:15:00.000Z"

    def test_a_new_version_holds_at_once(self) -> None:
        before = self.send_with().json["id"]
        published = self.put(subject__txt="New {{ name }} {{ code }}").json["published"]
        after = self.send_with().json["id"]

        shown = [self.call("GET", f"/v1/messages/{one}").json for one in (before, after)]
        assert [one["template_version"] for one in shown] == [
            self.version,
            published[0]["version"],
        ]
        assert shown[1]["subject"] == "New Ann <b> •••"
        listed = self.call("GET", "/v1/messages?template=code").json["data"]
        assert len(listed) == 2

    def test_what_is_sensitive_is_in_the_mail_and_nowhere_else(self) -> None:
        sent = self.send_with()
        public = sent.json["id"]
        events = self.wait(self.app.store.list_events(EventFilter(), after_seq=0, limit=100))
        bad = {**USE["variables"], "code": ["987654"], "total": -987654}
        refused = self.send_with(template={"name": "code", "variables": bad})

        assert b"987654" in self.load_raw(public)
        shown = self.call("GET", f"/v1/messages/{public}")
        assert shown.json["subject"] == "Ann <b>, your code is •••"
        assert b"987654" not in shown.octets
        assert "987654" not in str(events)
        found = self.call("GET", "/v1/messages?q=987654").json["data"]
        assert found == []
        assert set(refused.pointers) == {
            "/template/variables/code",
            "/template/variables/total",
        }
        details = {e["pointer"]: e["detail"] for e in refused.json["errors"]}
        assert "987654" not in details["/template/variables/code"]

    def test_all_faults_at_once(self) -> None:
        answer = self.send_with(
            to="nobody",
            template={"name": "code", "variables": {"nme": 1, "code": "1", "day": "24.11."}},
        )

        self.assert_problem(answer, 422, "invalid")
        below = "/template/variables"
        assert set(answer.pointers) == {f"{below}/name", f"{below}/nme", f"{below}/day", "/to"}
        answer = self.send_with(subject="x", text="x", html="x")
        assert set(answer.pointers) == {"/subject", "/text", "/html"}
        answer = self.send_with(template={"name": "cod", "variables": {}})
        assert "did you mean" in answer.json["errors"][0]["detail"]
        for use in ("code", {"name": 5}, {"name": "code", "variables": []}, {"nam": "code"}):
            answer = self.send_with(template=use)
            self.assert_problem(answer, 422, "invalid")
            assert [one for one in answer.pointers if one.startswith("/template")]

    def test_a_key_is_replayed_without_rendering_even_when_the_template_is_gone(self) -> None:
        """P4."""
        first = self.send_with(key="k")
        self.call("DELETE", "/v1/templates/code")
        again = self.send_with(key="k")

        assert (again.status, again.json["id"]) == (202, first.json["id"])
        assert again.headers["Idempotent-Replayed"] == "true"
        other = self.send_with(key="k", template={"name": "code", "variables": {"name": "Bob"}})
        self.assert_problem(other, 422, "idempotency_key_reused")

    def test_a_line_break_in_a_subject_becomes_a_space(self) -> None:
        """T-05."""
        name = "1\r\nBcc: eve@example.org\u2028\u202ex"
        sent = self.send_with(
            template={"name": "code", "variables": {"name": name, "code": "1"}}
        )

        parsed = message_from_bytes(self.load_raw(sent.json["id"]), policy=default)
        assert parsed["subject"] == "1 Bcc: eve@example.org x, your code is 1"
        assert parsed["bcc"] is None

    def test_templates_only_means_it(self) -> None:
        token = self.make_token("only", "send", limits={"templates_only": True})

        self.assert_problem(self.send(token), 403, "forbidden")
        assert self.send_with(token).status == 202
        self.assert_problem(self.send_with(token, html="<p>mine</p>"), 422, "invalid")

    def test_a_bomb_is_its_own_senders_trouble(self) -> None:
        """T-10: a 422 that names the limit; everything else goes on."""
        loops = "".join(f"{{% for {n} in name %}}" for n in "abcdefgh")
        body = f"<p>{{{{ code }}}}</p>{loops}{{% set x = a %}}{'{% endfor %}' * 8}"
        assert self.put("bomb", body__html=body).status == 200
        variables = {"name": "x" * 1000, "code": "1"}
        answer = self.send_with(template={"name": "bomb", "variables": variables})

        self.assert_problem(answer, 422, "invalid")
        assert answer.pointers == ["/template"]
        assert "200 ms of processor time" in answer.json["detail"]
        assert self.send().status == 202
        assert self.send_with().status == 202

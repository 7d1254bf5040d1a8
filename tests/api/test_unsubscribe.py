"""`/u/{link}` and `list_unsubscribe`: one click, and only for whom the link was made."""

import email
import re
from email.message import Message
from email.policy import default
from typing import Any, ClassVar

from emailerctl.core.unsubscribe import Unsubscribing, parse_link
from emailerctl.models.ids import MESSAGE, parse_public
from emailerctl.models.page import EventFilter
from tests.api.case import Answer, ApiCase

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ONE_CLICK = b"List-Unsubscribe=One-Click"
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\n'
    b"One-Click\r\n--x--\r\n"
)


class UnsubscribeCase(ApiCase):
    overrides: ClassVar = {"api.public_url": "https://mail.example.org/mail/"}

    def read_raw(self, public_id: str) -> bytes:
        message_id = parse_public(MESSAGE, public_id)
        assert message_id is not None
        return bytes(self.wait(self.app.store.load_raw(message_id)))

    def read(self, public_id: str) -> Message:
        return email.message_from_bytes(self.read_raw(public_id), policy=default)

    def find_link(self, public_id: str) -> str:
        """Return the path of a message's link, as a mail program would see it."""
        field = str(self.read(public_id)["List-Unsubscribe"])
        found = re.fullmatch(r"<https://mail\.example\.org/mail(/u/[A-Za-z0-9_-]+)>", field)
        assert found is not None, field
        return found[1]

    def click(self, path: str, body: bytes = ONE_CLICK, headers: dict[str, str] = FORM) -> Any:
        return self.fetch_page("POST", path, body, headers)

    def fetch_page(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        return self.wait(
            self.http_client.fetch(
                self.get_url(path),
                method=method,
                body=body,
                headers=headers or {},
                raise_error=False,
                allow_nonstandard_methods=True,
            )
        )

    def suppressions(self) -> list[tuple[str, str, str]]:
        data = self.call("GET", "/v1/suppressions").json["data"]
        return [(one["address"], one["service"], one["reason"]) for one in data]

    def newsletter(self, **fields: object) -> Answer:
        return self.send(list_unsubscribe=True, **fields)


class TestHeaders(UnsubscribeCase):
    def test_a_link_is_signed_for_one_recipient(self) -> None:
        public_id = self.accept(list_unsubscribe=True)
        message = self.read(public_id)

        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        key = self.wait(self.app.unsubscribing.load_key())
        subject = parse_link(key, self.find_link(public_id).removeprefix("/u/"))
        assert subject is not None
        assert (subject.message_id, subject.n) == (parse_public(MESSAGE, public_id), 1)
        assert (subject.service, subject.address) == ("root", "ann@example.net")

    def test_a_url_of_one_s_own_is_written_as_it_is(self) -> None:
        """Never folded, never encoded: also where it looks as if it were."""
        url = "https://example.org/u?" + "a=?utf-8?q?b?=&" * 50
        public_id = self.accept(list_unsubscribe=url, to=["a@b.example", "c@d.example"])
        lines = self.read_raw(public_id).split(b"\r\n")
        assert f"List-Unsubscribe: <{url}>".encode() in lines
        assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines

    def test_false_and_nothing_write_none(self) -> None:
        for value in (False, None):
            message = self.read(self.accept(list_unsubscribe=value))
            assert message["List-Unsubscribe"] is None
            assert message["List-Unsubscribe-Post"] is None

    def test_one_link_can_t_be_for_two(self) -> None:
        """The bytes are the same for everyone: refused, with what else is wrong."""
        answer = self.newsletter(cc="bob@example.net", tags=["\n"])
        self.assert_problem(answer, 422, "invalid")
        assert set(answer.pointers) == {"/list_unsubscribe", "/tags/0"}
        assert "one message to each" in answer.json["detail"]

    def test_the_headers_can_t_be_given_twice(self) -> None:
        headers = {"List-Unsubscribe": "<https://example.org>"}
        answer = self.newsletter(headers=headers)
        assert answer.pointers == ["/headers/List-Unsubscribe"]


class TestWithoutPublicUrl(ApiCase):
    def test_the_cure_is_named(self) -> None:
        answer = self.send(list_unsubscribe=True)
        self.assert_problem(answer, 422, "invalid")
        assert answer.pointers == ["/list_unsubscribe"]
        assert "[api] public_url" in answer.json["detail"]


class TestLink(UnsubscribeCase):
    def test_one_click_suppresses_at_once(self) -> None:
        """RFC 8058: no cookie, no token, no second question."""
        public_id = self.accept(list_unsubscribe=True)
        path = self.find_link(public_id)

        answer = self.click(path)

        assert answer.code == 200
        assert self.suppressions() == [("ann@example.net", "root", "unsubscribe")]
        assert self.newsletter().json["state"] == "failed"
        assert self.send().json["state"] == "queued"  # a receipt still comes
        assert (
            self.send(self.make_token("shop"), list_unsubscribe=True).json["state"] == "queued"
        )

    def test_both_kinds_of_form_will_do(self) -> None:
        path = self.find_link(self.accept(list_unsubscribe=True))
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert self.click(path, MULTIPART, headers).code == 200
        assert len(self.suppressions()) == 1

    def test_looking_changes_nothing(self) -> None:
        """Scanners follow every link, with GET and HEAD."""
        path = self.find_link(self.accept(list_unsubscribe=True))
        for method in ("GET", "HEAD"):
            assert self.fetch_page(method, path).code == 200
        assert self.suppressions() == []

    def test_a_post_that_is_no_click_changes_nothing(self) -> None:
        path = self.find_link(self.accept(list_unsubscribe=True))
        calls = [
            (b"", FORM),
            (b"List-Unsubscribe=Two-Clicks", FORM),
            (b"List-Unsubscribe=One-Click&List-Unsubscribe=One-Click", FORM),
            (ONE_CLICK, {"Content-Type": "text/plain"}),
            (b"{}", {"Content-Type": "application/json"}),
            (b"--y", {"Content-Type": "multipart/form-data; boundary=x"}),
            (b"--x\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
            (b"x", {"Content-Type": "multipart/form-data"}),
            (b"&" * 5_000, FORM),
        ]
        for body, headers in calls:
            assert self.click(path, body, headers).code == 400, (body, headers)
        assert self.click(path, b"x" * 20_000).code == 413
        assert self.suppressions() == []

    def test_the_page_has_a_button_and_can_do_nothing_else(self) -> None:
        path = self.find_link(self.accept(to="a&b@example.net", list_unsubscribe=True))
        page = self.fetch_page("GET", path)
        text = page.body.decode()

        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        for part in ("form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert '<html lang="en">' in text
        assert '<form method="post">' in text
        assert '<button type="submit">' in text
        assert "a&amp;b@example.net" in text
        assert "<script" not in text

    def test_what_was_not_signed_is_not_there(self) -> None:
        link = self.find_link(self.accept(list_unsubscribe=True)).removeprefix("/u/")
        flipped = [
            link[:at] + ("A" if link[at] != "A" else "B") + link[at + 1 :]
            for at in range(len(link) - 1)
        ]
        forged = [*flipped, link[:-4], link + "AAAA", "x", "A" * 40, "A" * 700, "_" * 64]
        for one in forged:
            assert self.click(f"/u/{one}").code == 404, one
        for one in forged[::20]:
            page = self.fetch_page("GET", f"/u/{one}")
            assert page.code == 404
            assert "This link does not work" in page.body.decode()
            assert "Content-Security-Policy" in page.headers
        assert self.suppressions() == []

    def test_it_is_an_event_of_its_message_once(self) -> None:
        public_id = self.accept(list_unsubscribe=True)
        path = self.find_link(public_id)
        for _ in range(3):
            assert self.click(path).code == 200

        events = self.wait(self.app.store.list_events(EventFilter(), after_seq=0, limit=100))
        (event,) = [event for event in events if event.type == "unsubscribe.reported"]
        assert event.recipient == "ann@example.net"
        assert event.data["by"] == "one-click"
        (entry,) = self.call("GET", "/v1/suppressions").json["data"]
        assert (entry["message_id"], entry["actor"]) == (public_id, "one-click")

    def test_it_works_when_the_message_is_long_gone(self) -> None:
        public_id = self.accept(list_unsubscribe=True)
        path = self.find_link(public_id)
        self.call("POST", f"/v1/messages/{public_id}/cancel")
        self.clock.advance(h=24 * 365 * 5)
        removed = self.app.store.retain(
            content_ms=0, messages_ms=1, events_ms=1, now_ms=self.clock.now_ms(), limit=10
        )
        assert self.wait(removed)
        assert self.call("GET", f"/v1/messages/{public_id}").status == 404

        assert self.click(path).code == 200
        assert self.suppressions() == [("ann@example.net", "root", "unsubscribe")]

    def test_the_key_is_the_same_in_every_process(self) -> None:
        """Whoever makes it first."""
        keys = set()
        for number in range(3):
            other = Unsubscribing(
                self.app.store,
                base="https://x.example",
                clock=self.clock,
                make_secret=lambda number=number: bytes([number]) * 32,
            )
            keys.add(self.wait(other.load_key()))
        assert len(keys) == 1

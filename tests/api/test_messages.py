"""`/v1/messages`: accept, list, show, the operator's verbs."""

from tests.api.case import ApiCase


class PostTest(ApiCase):
    def test_accepted_message_has_an_id_and_a_place(self) -> None:
        answer = self.send()

        assert answer.status == 202
        assert answer.json["id"].startswith("msg_")
        assert answer.headers["Location"] == f"/v1/messages/{answer.json['id']}"
        assert "Idempotent-Replayed" not in answer.headers
        assert "Etag" not in answer.headers
        assert answer.json == {
            "id": answer.json["id"],
            "state": "queued",
            "created_at": "2026-11-24T10:00:00.000Z",
            "on_unknown": "ask",
            "test": False,
            "recipients": [{"address": "ann@example.net", "kind": "to", "state": "queued"}],
            "warnings": [],
        }

"""The settings: where each comes from, what is refused, and what the refusal says."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from emailerctl import settings as settings_module
from emailerctl.errors import ConfigurationError
from emailerctl.models.clock import duration_to_text, parse_duration
from emailerctl.settings import Settings, load, locate, origins
from emailerctl.settings.example import build_example, build_schema
from emailerctl.settings.lines import find_lines
from emailerctl.settings.loading import known_keys, open_tables, tables
from emailerctl.settings.model import RuleSettings

RELAY = '[providers.relay]\nkind = "smtp"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `./emailer.toml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "emailer.toml", mode: int = 0o600) -> Path:
    path = Path(name)
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(
    text: str = "",
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the sentences of the refusal, one for each fault."""
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ=environ or {}, overrides=overrides)
    assert caught.value.exit_code == 78
    lines = caught.value.detail.splitlines()
    if len(lines) > 1:
        assert lines.pop(0) == f"{len(lines)} settings are wrong:"
    assert len(lines) == len(caught.value.members["faults"])  # type: ignore[arg-type]
    return lines


# --- order ---


def test_flags_beat_variables_beat_the_file_beat_defaults() -> None:
    path = write('[api]\nport = 1\nworkers = 1\nhost = "file"\n[lease]\nduration = "7s"\n')
    environ = {"EMAILER_API__PORT": "2", "EMAILER_API__WORKERS": "2"}

    settings = load(path, environ=environ, overrides={"api.port": "3"})

    assert settings.api.port == 3
    assert settings.api.workers == 2
    assert settings.api.host == "file"
    assert settings.lease.duration == timedelta(seconds=7)
    assert settings.retry.max_age == timedelta(days=3)


def test_each_value_says_where_it_comes_from() -> None:
    path = write('\n[api]\nport = 1\nhost = "file"\n' + RELAY + 'host = "a"\npassword = "p"\n')
    environ = {"EMAILER_API__PORT": "2", "EMAILER_PROVIDERS__RELAY__HOST": "b"}

    settings = load(path, environ=environ, overrides={"consumer.concurrency": "3"})

    said = {origin.key: (origin.value, origin.origin) for origin in origins(settings)}
    assert said["api.port"] == (2, "EMAILER_API__PORT")
    assert said["api.host"] == ("file", "emailer.toml:4")
    assert said["consumer.concurrency"] == (3, "--concurrency")
    assert said["providers.relay.host"] == ("b", "EMAILER_PROVIDERS__RELAY__HOST")
    assert said["providers.relay.password"] == ("********", "emailer.toml:8")
    assert said["lease.duration"] == ("1m", "default")
    assert locate(settings, "providers.relay.port") == "emailer.toml:5"
    assert locate(settings, "lease.duration") == "default"


def test_nothing_set_is_all_defaults() -> None:
    settings = load(environ={"PATH": "/bin", "EMAILERCTL_X": "1"})

    assert settings == Settings()
    assert {origin.origin for origin in origins(settings)} == {"default"}


def test_defaults_are_those_of_the_contract() -> None:
    """product.md §7."""
    settings = Settings()

    assert settings.store.path == Path("/var/lib/emailer/emailer.db")
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8080)
    assert settings.api.require_idempotency_key is False
    assert settings.consumer.concurrency == 16
    assert settings.lease.duration == timedelta(seconds=60)
    waits = [duration_to_text(wait) for wait in settings.retry.schedule]
    assert waits == ["10s", "1m", "5m", "30m", "2h", "8h"]
    assert settings.retention.content == timedelta(days=7)
    assert settings.retention.messages == settings.retention.events == timedelta(days=90)
    assert settings.defaults.on_unknown == "ask"
    assert settings.limits.requests_per_second >= 10_000
    assert settings.api.max_connections >= 256


def test_the_surroundings_are_read_by_load_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAILER_API__PORT", "9")

    assert Settings().api.port == 8080
    assert load(environ={}).api.port == 8080


# --- which file ---


def test_a_named_file_beats_the_variable_beats_the_directory() -> None:
    write("[api]\nport = 1")
    write("[api]\nport = 2", "two.toml")
    write("[api]\nport = 3", "three.toml")

    assert load(environ={}).api.port == 1
    assert load(environ={"EMAILER_CONFIG": "two.toml"}).api.port == 2
    assert load(Path("three.toml"), environ={"EMAILER_CONFIG": "two.toml"}).api.port == 3
    assert load(environ={"EMAILER_CONFIG": ""}).api.port == 1


def test_a_named_file_has_to_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"EMAILER_CONFIG: there is no file no\.toml"):
        load(environ={"EMAILER_CONFIG": "no.toml"})
    with pytest.raises(ConfigurationError, match="--config: there is no file") as caught:
        load(Path("no.toml"), environ={})
    assert "config init" in caught.value.cure


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[api]\nport = \n", "emailer.toml:2: is not TOML: Invalid value"),
        (
            b"[api]\nport = 1\nport = 2\n",
            "emailer.toml:3: is not TOML: Cannot overwrite a value",
        ),
        (b"[api]\nhost = \xff\n", "emailer.toml:2: is not UTF-8"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(text: bytes, said: str) -> None:
    Path("emailer.toml").write_bytes(text)

    with pytest.raises(ConfigurationError) as caught:
        load(environ={})

    assert caught.value.detail == said


# --- names ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[api]\n\nprt = 1",
            "toml:3: api.prt: no such setting; did you mean api.port?",
        ),
        ("[appi]\na = 1\nb = 2", "emailer.toml:1: [appi]: no such table; did you mean [api]?"),
        ("x = 1", "emailer.toml:1: [x]: no such table; there are alerts, api, "),
        (
            "[lease]\nqqq = 1",
            "toml:2: lease.qqq: no such setting; [lease] has duration",
        ),
        ("api = 3", "emailer.toml:1: api: this is a table: [api]"),
        (
            "api.port.x = 3",
            "toml:1: api.port.x: no such setting; did you mean api.port?",
        ),
        ("providers = 3", "emailer.toml:1: providers: is no setting of a next hop"),
        ("[api]\nport_file = 'x'", "emailer.toml:2: api.port_file: no such setting; "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(text: str, said: str) -> None:
    (line,) = refused(text)

    assert said in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EMAILER_API__PROT", "api.prot: no such setting; did you mean EMAILER_API__PORT?"),
        ("EMAILER_ROUTNG__DEFAULT", "did you mean EMAILER_ROUTING__DEFAULT?"),
        ("EMAILER_PORT", "port: no such setting; "),
        ("EMAILER_API", "api: this is a table: [api]"),
        ("EMAILER_API__", "no such setting"),
        ("EMAILER_", "no such setting"),
        ("EMAILER_TOKENS", "no such setting"),
        ("EMAILER_API__PORT__X", "did you mean EMAILER_API__PORT?"),
        ("EMAILER_PROVIDERS__RELAY", "is no setting of a next hop"),
        ("EMAILER_PROVIDERS__RELAY__TLS__X", "is no setting of a next hop"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(name: str, said: str) -> None:
    (line,) = refused(RELAY + 'tls = "none"', {name: "1"})

    assert line.startswith(f"{name}: ")
    assert said in line


def test_the_command_lines_own_variables_are_no_settings() -> None:
    assert load(environ={"EMAILER_URL": "x", "EMAILER_TOKEN": "y"}) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[queue]\nkind = "nats"', 'emailer.toml:2: queue.kind: "nats" is not in this version'),
        ("[queue.nats]\nx = 1", "[queue.nats]: not in this"),
        ('[store]\nurl = "postgresql://h/d"', "PostgreSQL is not in this version"),
    ],
)
def test_what_this_version_lacks_is_refused_by_name(text: str, said: str) -> None:
    (line,) = refused(text)

    assert said in line


# --- values ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[api]\nport = 65536", "api.port: 65536 should be less than or equal to 65535"),
        ("[api]\nport = true", "api.port: true should be a whole number"),
        ('[api]\nport = "many"', 'api.port: "many" should be a whole number'),
        ("[api]\nhost = 3", "api.host: 3 should be text, in quotes"),
        ('[api]\nrequire_idempotency_key = "perhaps"', "should be true or false"),
        ('[api]\ncors_origins = ["https://a.example/"]', '"https://a.example/" is no origin'),
        ('[api]\npublic_url = "mail.example"', '"mail.example" is no https URL'),
        ('[api]\npublic_url = "http://a.example"', '"http://a.example" is no https URL'),
        ('[api]\npublic_url = "https://a.example/?x"', "has more than host and path"),
        ('[api]\npublic_url = "https://a.example/#x"', "has more than host and path"),
        ('[api]\npublic_url = "https://a.example/<x>"', "has more than host and path"),
        ('[api]\npublic_url = "https://u:p@a.example"', "has a user or is too long"),
        (
            "[lease]\nduration = 60",
            "lease.duration: 60 is no duration: that is text",
        ),
        ('[lease]\nduration = "60"', '"60" is no duration; write for example 500ms, 30s'),
        ('[lease]\nduration = "999ms"', "should be greater than or equal to 1 second"),
        ('[retry]\nschedule = ["10s", "x"]', 'retry.schedule: "x" is no duration'),
        ("[retry]\nschedule = []", "retry.schedule: "),
        ('[retry]\nschedule = ["0s"]', "has a wait of 0s"),
        ('[store]\nurl = "/var/lib/x.db"', "store.url: "),
        ('[store]\nurl = "sqlite:///"', "is no store"),
        ('[queue]\nkind = "rabbit"', '"rabbit" is no kind of queue; write "embedded" or "fo'),
        ('[defaults]\non_unknown = "maybe"', "should be 'ask' or 'resend'"),
        ('[defaults]\nfrom = "nobody"', 'defaults.from: "nobody" is not an address'),
        ('[defaults]\nenvelope_sender = "a@b\\r\\nc"', "a line break"),
        (
            '[routing]\ndefault = ["relay"]',
            "is no next hop; add a table [providers.relay]",
        ),
        ('[alerts]\nurl = "http://alerts.example.org/x"', "url is plain http to another host"),
        ('[alerts]\nurl = "ftp://x"', "url is no http(s) URL"),
        ('[alerts]\nmail_to = "ops@example.org"', "no next hop takes that mail"),
        ("[providers.relay]\nport = 25", "1: providers.relay: has no kind"),
        ('[providers."Re lay"]\nkind = "smtp"', "is no name of a next hop"),
        ('[providers."a.b"]\nkind = "smtp"', "is no name of a next hop"),
        ('[log]\naddresses = "none"', "should be 'full', 'masked' or 'hashed'"),
    ],
)
def test_a_bad_value_is_refused_with_place_value_and_cure(text: str, said: str) -> None:
    (line,) = refused(text)

    assert re.match(r"emailer\.toml:[12]: [a-z_]+(\.|: )", line)
    assert said in line


def test_all_faults_are_named_at_once() -> None:
    lines = refused(
        "[api]\nport = 70000\nprt = 1\n[routing]\ndefault = ['relai']\n" + RELAY,
        {"EMAILER_API__WORKERS": "0", "EMAILER_DEFAULTS__FROM": "x", "EMAILER_X": ""},
        {"consumer.concurrency": "many"},
    )

    assert sorted(line.split(": ")[0] for line in lines) == [
        "--concurrency",
        "EMAILER_API__WORKERS",
        "EMAILER_DEFAULTS__FROM",
        "EMAILER_X",
        "emailer.toml:2",
        "emailer.toml:3",
        "emailer.toml:5",
    ]
    assert any('did you mean "relay"?' in line for line in lines)


def test_a_long_or_hostile_value_is_shown_short_and_safe() -> None:
    (line,) = refused(environ={"EMAILER_API__PORT": "\x1b[2J\u202e" + "x" * 10_000})

    assert len(line) < 200
    assert line.isprintable()


def test_the_value_of_a_secret_is_never_shown() -> None:
    (line,) = refused("[alerts]\nurl = 'http://hooks.example.org/hunter2'")
    assert "hunter2" not in line
    (line,) = refused("[log]\nhash_key = 12345")
    assert "12345" not in line
    assert "********" in line


def test_plain_http_is_for_this_host_or_on_purpose() -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert load(write(f'[alerts]\nurl = "http://{host}:1/"'), environ={})
    assert load(write('[alerts]\nurl = "http://a.example"\nallow_http = true'), environ={})


def test_the_sandbox_needs_no_table() -> None:
    settings = load(write('[routing]\ndefault = ["sandbox"]'), environ={})

    assert settings.routing.default == ("sandbox",)


def test_addresses_of_local_domains_are_taken_on_purpose() -> None:
    text = '[defaults]\nfrom = "a@mail.local"\n'
    assert "not an address" in refused(text)[0]

    settings = load(write(text + "[limits]\nallow_local_domains = true"), environ={})

    assert settings.defaults.header_from == "a@mail.local"


def test_lists_in_variables_are_separated_by_commas() -> None:
    environ = {
        "EMAILER_RETRY__SCHEDULE": "1s, 2m",
        "EMAILER_ROUTING__DEFAULT": "relay",
        "EMAILER_API__CORS_ORIGINS": "",
    }

    settings = load(write(RELAY), environ=environ)

    assert settings.retry.schedule == (timedelta(seconds=1), timedelta(minutes=2))
    assert settings.routing.default == ("relay",)
    assert settings.api.cors_origins == ()


# --- next hops and secrets ---


def test_a_next_hop_can_be_made_of_variables_alone() -> None:
    environ = {
        "EMAILER_PROVIDERS__RELAY__KIND": "smtp",
        "EMAILER_PROVIDERS__RELAY__PORT": "587",
        "EMAILER_PROVIDERS__RELAY__PASSWORD": "12345",
    }

    table = load(environ=environ).providers["relay"]

    assert table == {"kind": "smtp", "port": "587", "password": SecretStr("12345")}


def test_a_password_is_read_from_its_file_beside_the_settings() -> None:
    write("hunter2\n", "pw")
    Path("sub").mkdir()
    path = write(RELAY + 'password_file = "../pw"\nca_file = "ca.pem"', "sub/emailer.toml")

    settings = load(path, environ={})

    table = settings.providers["relay"]
    assert table == {"kind": "smtp", "password": SecretStr("hunter2"), "ca_file": "ca.pem"}
    assert "hunter2" not in repr(settings)
    said = {origin.key: origin for origin in origins(settings)}["providers.relay.password"]
    assert said.value == "********"
    assert said.origin == "sub/emailer.toml:3 (sub/../pw)"


def test_the_file_that_a_variable_names_beats_the_password_in_the_settings() -> None:
    write("from-file", "pw")
    write("[log]\nhash_key = 'x'\n" + RELAY + "password = 'inline'")
    environ = {
        "EMAILER_PROVIDERS__RELAY__PASSWORD_FILE": "pw",
        "EMAILER_LOG__HASH_KEY_FILE": "pw",
    }

    settings = load(environ=environ)

    assert settings.providers["relay"]["password"].get_secret_value() == "from-file"
    assert settings.log.hash_key.get_secret_value() == "from-file"


def test_a_file_that_lost_is_not_read() -> None:
    path = write(RELAY + "password_file = 'gone'")

    settings = load(path, environ={"EMAILER_PROVIDERS__RELAY__PASSWORD": "p"})

    assert settings.providers["relay"]["password"].get_secret_value() == "p"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "can't read pw: No such file or directory"),
        (b"", 0o600, "pw is empty"),
        (b"\n", 0o600, "pw is empty"),
        (b"\xff", 0o600, "pw is not UTF-8"),
        (b"x" * 70_000, 0o600, "pw is larger than"),
        (b"x", 0o640, "pw has mode 0640: others may read the secret in it; chmod 600 pw"),
        (b"x", 0o604, "chmod 600 pw"),
    ],
)
def test_a_bad_secret_file_is_refused(content: bytes | None, mode: int, said: str) -> None:
    """T-17."""
    if content is not None:
        Path("pw").write_bytes(content)
        Path("pw").chmod(mode)

    (line,) = refused(RELAY + 'password_file = "pw"')

    assert line.startswith("emailer.toml:3 (pw): providers.relay.password: ")
    assert said in line


def test_a_secret_is_given_once() -> None:
    (line,) = refused(RELAY + 'password = "x"\npassword_file = "y"')

    assert line.endswith("providers.relay.password_file: give it or password, not both")


def test_a_secret_in_a_readable_file_is_warned_of() -> None:
    """T-17: the file of settings itself may be readable, as long as it holds no secret."""
    assert load(write(RELAY, mode=0o644), environ={}).warnings == []
    assert load(write(RELAY + 'password = "x"'), environ={}).warnings == []

    (warning,) = load(write(RELAY + 'password = "x"', mode=0o644), environ={}).warnings

    assert warning.startswith("emailer.toml:3: providers.relay.password: emailer.toml has mode")


def test_next_hops_are_checked_by_who_knows_them() -> None:
    def check(settings: Settings) -> None:
        place = locate(settings, "providers.relay.port")
        raise ConfigurationError(f"{place}: providers.relay.port: is no port")

    with pytest.raises(ConfigurationError, match=r"emailer\.toml:3: providers\.relay\.port"):
        load(write(RELAY + "port = 0"), environ={}, check_providers=check)


# --- lines ---


def test_every_way_to_write_toml_is_found() -> None:
    text = "\n".join(
        [
            "# [not]",
            "a.b = 1 # c = 2",
            '[t."x.y"] # comment',
            '"k\\u0065y" = """',
            "[no]",
            'no = \\""" 1',
            '""" # still',
            "lit = '\\'",
            "multi = '''",
            "[no]",
            "no = 1'''",
            "list = [ # [",
            '  "]", # no = 1',
            "  { no = 1 }, [",
            "  ],",
            "]",
            'end = { inline = "}" }',
            "[[many]]",
            "one = 1",
            "[[many]]",
            "two = 1",
            "[last]",
            "z = 1",
        ]
    )
    assert tomllib.loads(text)["t"]["x.y"]["lit"] == "\\"

    assert find_lines(text) == {
        ("a",): 2,
        ("a", "b"): 2,
        ("t", "x.y"): 3,
        ("t", "x.y", "key"): 4,
        ("t", "x.y", "lit"): 8,
        ("t", "x.y", "multi"): 9,
        ("t", "x.y", "list"): 12,
        ("t", "x.y", "end"): 17,
        ("many",): 18,
        ("many", "1"): 18,
        ("many", "1", "one"): 19,
        ("many", "2"): 20,
        ("many", "2", "two"): 21,
        ("last",): 22,
        ("last", "z"): 23,
    }


_KEYS = st.text("aZ0_-", min_size=1, max_size=5) | st.text("a é]#=.'\x85", max_size=5).map(
    lambda key: f'"{key}"'
)
_VALUES = st.recursive(
    st.sampled_from(["1", '"a # ] = b"', "'[x]'", '"""\n[x]\ny = 1\n"""', "'''\n='''"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda some: f"[\n{','.join(some)} # ]\n]"),
    max_leaves=4,
)


@given(st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=4))
def test_lines_are_right_in_any_document(tables: dict[str, dict[str, str]]) -> None:
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
        for name, table in tables.items()
    )
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # the same key, bare and in quotes
        return

    lines = find_lines(text)

    written = text.split("\n")
    expected = {(name,) for name in document}
    expected |= {(name, key) for name, table in document.items() for key in table}
    assert set(lines) == expected
    for key, line in lines.items():
        assert re.sub(r'^\[?"?', "", written[line - 1]).startswith(key[-1])


# --- durations ---


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("3d", 259_200_000)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, ms: int) -> None:
    assert parse_duration(text) == timedelta(milliseconds=ms)
    assert duration_to_text(timedelta(milliseconds=ms)) == text


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "1.5h", "5 s", "1h3m", "5S", "٣s", "36501d"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_reads_back(ms: int) -> None:
    duration = timedelta(milliseconds=ms)

    assert parse_duration(duration_to_text(duration)) == duration


# --- tables in tables ---

IMAP = """[bounces.imap]
host = "imap.example.org"
username = "bounces"
password = "s3cret"
"""


def test_a_table_in_a_table_is_read_from_everywhere() -> None:
    settings = load(
        write(IMAP),
        environ={"EMAILER_BOUNCES__IMAP__POLL": "5m"},
        overrides={"bounces.imap.mailbox": "Bounces"},
    )

    imap = settings.bounces.imap
    assert (imap.host, imap.mailbox, imap.effective_port) == (
        "imap.example.org",
        "Bounces",
        993,
    )
    assert imap.poll == timedelta(minutes=5)
    shown = {one.key: (one.value, one.origin) for one in origins(settings)}
    assert shown["bounces.imap.password"][0] == "********"
    assert shown["bounces.imap.poll"] == ("5m", "EMAILER_BOUNCES__IMAP__POLL")
    assert shown["bounces.imap.folder"] == ("Processed", "default")


def test_its_password_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("s3cret\n")
    text = IMAP.replace('password = "s3cret"', f'password_file = "{secret}"')

    settings = load(write(text), environ={})

    assert settings.bounces.imap.password.get_secret_value() == "s3cret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IMAP + 'mailbx = "x"', "did you mean bounces.imap.mailbox?"),
        (IMAP + "zzzzzz = 1", "[bounces.imap] has ca_file, done,"),
        ("[bounces]\nimap = 1", "this is a table: [bounces.imap]"),
        ('[bounces.smtp]\nhost = "x"', "bounces.smtp.host"),
        (IMAP + 'tls = "none"', 'write "implicit"'),
        (IMAP + 'folder = "INBOX"', "read for ever"),
        (IMAP + 'folder = "Überholt"', "modified UTF-7"),
        (IMAP + 'poll = "1ms"', "bounces.imap.poll"),
        ('[bounces.imap]\nhost = "imap.example.org"', "host without username and password"),
    ],
)
def test_what_is_wrong_in_it_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(text), environ={})

    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_mailbox_on_this_host_may_be_read_in_clear() -> None:
    text = IMAP.replace("imap.example.org", "127.0.0.1") + 'tls = "none"'

    assert load(write(text), environ={}).bounces.imap.effective_port == 143


# --- example and schema ---


def _uncommented() -> str:
    lines = build_example().splitlines()
    return "\n".join(line[1:] if re.match(r"#[a-z\[]", line) else line for line in lines)


def test_the_example_sets_nothing() -> None:
    settings = load(write(build_example(), mode=0o644), environ={})

    assert settings.model_dump() == Settings().model_dump()


def test_the_example_shows_every_setting_with_its_default() -> None:
    document: dict[str, Any] = tomllib.loads(_uncommented())
    defaults = Settings().model_dump(mode="json", by_alias=True, exclude={"providers"})

    del document["providers"]
    for *path, key in (key for key, is_secret in known_keys().items() if is_secret):
        table = document
        for part in path:
            table = table[part]
        del table[f"{key}_file"]
    document["alerts"]["url"] = defaults["alerts"]["url"]
    document["bounces"]["imap"]["password"] = defaults["bounces"]["imap"]["password"]
    document["log"]["hash_key"] = defaults["log"]["hash_key"]
    (rule,) = document["routing"].pop("rules")
    assert rule.keys() == RuleSettings.model_fields.keys()
    assert defaults["routing"].pop("rules") == []
    assert document == defaults


def test_every_setting_says_what_it_is_for() -> None:
    for *path, key in known_keys() | open_tables():
        fields = {
            field.alias or name: field
            for name, field in tables()[tuple(path)].model_fields.items()
        }
        assert (fields[key].description or "").endswith("."), f"{path}.{key}"


def test_the_schema_knows_what_the_loader_knows() -> None:
    schema = json.loads(json.dumps(build_schema()))
    known: dict[tuple[str, ...], Any] = {(): schema["properties"]}
    for path in tables():
        reference = known[path[:-1]][path[-1]]["$ref"]
        known[path] = schema["$defs"][reference.rpartition("/")[2]]["properties"]
    keys = {(*path, key) for path, table in known.items() for key in table}
    keys -= {*tables(), ("providers",)}

    secrets = {
        (*path, f"{key}_file") for (*path, key), secret in known_keys().items() if secret
    }
    assert keys == set(known_keys()) | set(open_tables()) | secrets
    assert schema["additionalProperties"] is False


def test_the_import_is_not_paid_by_who_needs_no_settings() -> None:
    program = "import emailerctl, emailerctl.errors, sys; print('pydantic' in sys.modules)"
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, check=True
    )

    assert run.stdout.strip() == b"False"
    assert settings_module.__doc__


# --- routing rules ---

HOPS = RELAY + '[providers.bulk]\nkind = "smtp"\n[routing]\ndefault = ["relay"]\n'


def test_rules_are_read_in_their_order() -> None:
    path = write(
        HOPS
        + """
[[routing.rules]]
name = "canary"
tag = ["news"]
percent = 5
chain = ["bulk", "relay"]

[[routing.rules]]
from_domain = "Example.ORG, *.bücher.example"
priority = "low"
chain = "bulk"
"""
    )

    canary, other = load(path, environ={}).routing.rules

    assert (canary.name, canary.tag, canary.percent) == ("canary", ("news",), 5)
    assert canary.chain == ("bulk", "relay")
    assert other.from_domain == ("example.org", "*.xn--bcher-kva.example")
    assert (other.priority, other.chain) == (("low",), ("bulk",))


@pytest.mark.parametrize(
    ("rule", "key", "line", "says"),
    [
        ('tagg = ["x"]\nchain = ["relay"]', "tagg", 3, "did you mean tag?"),
        ('zzz = ["x"]\nchain = ["relay"]', "zzz", 3, "it has name, tag, template"),
        ('tag = ["x"]', "chain", 2, "is missing"),
        (
            'tag = ["x"]\nchain = ["rely"]',
            "chain",
            4,
            '"rely" is no next hop; did you mean "relay"?',
        ),
        ('tag = ["x"]\nchain = ["zzz"]', "chain", 4, "add a table [providers.zzz]"),
        ('tag = ["x"]\nchain = []', "chain", 4, "is empty"),
        ('tag = []\nchain = ["relay"]', "tag", 3, "is empty: nothing would ever match"),
        ('tag = 5\nchain = ["relay"]', "tag", 3, "should be a list"),
        ('priority = ["hihg"]\nchain = ["relay"]', "priority", 3, 'did you mean "high"?'),
        (
            'priority = ["5"]\nchain = ["relay"]',
            "priority",
            3,
            "write one of high, normal, low",
        ),
        ('from_domain = ["a b"]\nchain = ["relay"]', "from_domain", 3, '"a b" is no domain'),
        ('from_domain = ["*"]\nchain = ["relay"]', "from_domain", 3, '"*" is no domain'),
        (
            'recipient_domain = ["x@y.org"]\nchain = ["relay"]',
            "recipient_domain",
            3,
            "is no domain",
        ),
        ('tag = "x"\npercent = 0\nchain = ["relay"]', "percent", 4, "greater than 0"),
        (
            'tag = "x"\npercent = 101\nchain = ["relay"]',
            "percent",
            4,
            "less than or equal to 100",
        ),
        ('chain = ["relay"]', "", 2, "write that as [routing] default"),
        ('percent = 100\nchain = ["relay"]', "", 2, "has no condition"),
    ],
)
def test_a_wrong_rule_is_named_with_its_line(rule: str, key: str, line: int, says: str) -> None:
    head = HOPS + '[[routing.rules]]\ntag = ["first"]\nchain = ["bulk"]\n'
    before = head.count("\n")

    (said,) = refused(f"{head}\n[[routing.rules]]\n{rule}\n")

    dotted = f"routing.rules.2.{key}".rstrip(".")
    assert said.startswith(f"emailer.toml:{before + line}: {dotted}: "), said
    assert says in said


def test_all_faults_of_all_rules_are_said_at_once() -> None:
    said = refused(
        HOPS
        + '[[routing.rules]]\ntagg = "x"\n[[routing.rules]]\ntag = []\nchain = "relay"\n'
        + '[api]\nport = "x"\n'
    )

    assert [line.split(": ")[1] for line in said] == [
        "api.port",
        "routing.rules.1.chain",
        "routing.rules.1.tagg",
        "routing.rules.2.tag",
    ]


@pytest.mark.parametrize(
    ("first", "second", "is_dead"),
    [
        ('tag = ["a", "b"]', 'tag = ["a"]', True),
        ('tag = ["a", "b"]', 'tag = ["a"]\nservice = ["shop"]', True),
        ('tag = ["a"]\npercent = 100', 'tag = ["a"]', True),
        ('from_domain = ["*.example.org"]', 'from_domain = ["a.example.org"]', True),
        ('from_domain = ["*.example.org"]', 'from_domain = ["*.a.example.org"]', True),
        ('from_domain = ["*.example.org"]', 'from_domain = ["example.org"]', False),
        ('tag = ["a"]\npercent = 50', 'tag = ["a"]', False),
        ('tag = ["a"]', 'tag = ["a", "b"]', False),
        ('tag = ["a"]\nservice = ["shop"]', 'tag = ["a"]', False),
        ('tag = ["a"]', 'service = ["shop"]', False),
    ],
)
def test_a_rule_that_can_never_match_is_refused(first: str, second: str, is_dead: bool) -> None:
    text = "".join(f'[[routing.rules]]\n{rule}\nchain = ["bulk"]\n' for rule in (first, second))
    if not is_dead:
        assert len(load(write(HOPS + text), environ={}).routing.rules) == 2
        return

    (said,) = refused(HOPS + text)

    assert "routing.rules.2: can never match: rule 1 takes all that it would" in said


def test_one_table_instead_of_a_list_is_explained() -> None:
    (said,) = refused(HOPS + '[routing.rules]\ntag = ["a"]\n')

    assert said == (
        "emailer.toml:8: [routing.rules]: is one table; rules are a list of them: "
        "[[routing.rules]]"
    )


def test_rules_are_not_for_variables() -> None:
    (said,) = refused(HOPS, environ={"EMAILER_ROUTING__RULES": "bulk"})

    assert said.startswith("EMAILER_ROUTING__RULES: routing.rules: ")
    assert "each under [[routing.rules]]" in said


def test_rules_are_shown_as_they_are_written() -> None:
    path = write(HOPS + '[[routing.rules]]\ntag = "a"\nchain = "bulk"\n')

    said = {one.key: one for one in origins(load(path, environ={}))}

    assert said["routing.rules"].value == [{"tag": ["a"], "chain": ["bulk"]}]
    assert said["routing.rules"].origin == "emailer.toml:7"


# --- tables within tables, with the operator's own keys ---

SECRET = "0123456789abcdef0123456789abcdef"
INGEST = """
[ingest.forestmq]
allow_unsigned = true
unsigned_from = ["Example.org"]
[ingest.forestmq.keys]
billing = "{secret}"
shop_file = "shop.key"
[ingest.forestmq.topics]
"email.job" = "http://127.0.0.1:8006"
"""


def test_a_table_with_the_operators_own_keys() -> None:
    write(f"{SECRET}shop\n", "shop.key")
    file = write(INGEST.format(secret=SECRET))
    key = "ffffffffffffffffffffffffffffffff"

    settings = load(file, environ={"EMAILER_INGEST__FORESTMQ__KEYS__NEWS": key})

    forestmq = settings.ingest.forestmq
    assert forestmq.unsigned_from == ("example.org",)
    assert forestmq.topics == {"email.job": "http://127.0.0.1:8006"}
    assert {name: k.get_secret_value() for name, k in forestmq.keys.items()} == {
        "billing": SECRET,
        "shop": f"{SECRET}shop",
        "news": key,
    }
    shown = {one.key: one for one in origins(settings)}
    assert shown["ingest.forestmq.keys.billing"].value == "********"
    assert shown["ingest.forestmq.keys.news"].origin == "EMAILER_INGEST__FORESTMQ__KEYS__NEWS"
    assert shown["ingest.forestmq.topics.email.job"].origin == "emailer.toml:9"
    assert SECRET not in str(list(shown.values())) + repr(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allow_unsigned = true", "allow_unsigned needs unsigned_from"),
        ('unsigned_from = ["a@example.org"]', 'is no domain in ASCII; write for example'),
        ('keys.shop = "short"', "is shorter than 32 characters; make one: openssl rand"),
        (f'keys.local = "{SECRET}"', "is no key id"),
        (f'keys."Shop!" = "{SECRET}"', "is no key id"),
        ('keys.shop_file = "absent"', "can't read absent"),
        ('topics."Email Job" = "http://127.0.0.1:1"', '"Email Job" is no topic'),
        ('topics.job = "ftp://h"', "topics.job is no http(s) URL"),
        ('topics.job = "http://queue:8005"', "is plain http to another host"),
        ('allow_unsinged = true', "did you mean ingest.forestmq.allow_unsigned?"),
        ('max_age = "29d"', "should be less than or equal to 28 days"),
    ],
)  # fmt: skip
def test_a_bad_setting_of_a_table_within_a_table(text: str, said: str) -> None:
    (line,) = refused(f"[ingest.forestmq]\n{text}")

    assert line.startswith("emailer.toml:")
    assert said in line
    assert SECRET not in line


FORESTMQ = """
[queue]
kind = "forestmq"
[queue.forestmq.topics]
"email.send" = "http://127.0.0.1:8005"
"email.bulk" = "http://localhost:8006"
[queue.forestmq.priorities]
low = "email.bulk"
[queue.forestmq.weights]
"email.send" = 4
"""


def test_a_queue_by_way_of_forestmq() -> None:
    file = write(FORESTMQ)

    found = load(file, environ={"EMAILER_QUEUE__FORESTMQ__HIGH_WATER": "100"}).queue

    assert found.kind == "forestmq"
    assert list(found.forestmq.topics) == ["email.send", "email.bulk"]
    assert found.forestmq.priorities == {"low": "email.bulk"}
    assert found.forestmq.weights == {"email.send": 4}
    assert found.forestmq.high_water == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'kind "forestmq" needs a topic: in [queue.forestmq.topics] write'),
        ('topics."email.send" = "http://forestmq:8005"', "is plain http to another host"),
        ('topics."Send!" = "http://127.0.0.1:8005"', '"Send!" is no topic'),
        ('topics.a = "127.0.0.1:8005"', "topics.a is no http(s) URL"),
        ('topics.a = "http://127.0.0.1:1"\npriorities.lo = "a"', "there are high, normal"),
        ('topics.a = "http://127.0.0.1:1"\npriorities.low = "b"', "there is no topic"),
        ('topics.a = "http://127.0.0.1:1"\nweights.b = 1', "there is no topic"),
        ('topics.a = "http://127.0.0.1:1"\nweights.a = -1', "-1 is no weight"),
        ('topics.a = "http://127.0.0.1:1"\nfallback = "1s"', "did you mean queue."),
    ],
)  # fmt: skip
def test_a_bad_setting_of_forestmq(text: str, said: str) -> None:
    lines = refused(f'[queue]\nkind = "forestmq"\n[queue.forestmq]\n{text}')

    assert any(said in line for line in lines)
    assert all(line.startswith("emailer.toml:") for line in lines)


def test_plain_http_to_another_host_is_allowed_by_a_setting() -> None:
    text = 'allow_http = true\ntopics.a = "http://forestmq:8005"'

    found = load(write(f'[queue]\nkind = "forestmq"\n[queue.forestmq]\n{text}'), environ={})

    assert found.queue.forestmq.topics == {"a": "http://forestmq:8005"}


def test_a_table_within_a_table_is_no_value() -> None:
    assert "this is a table: [ingest.forestmq]" in refused("[ingest]\nforestmq = 1")[0]
    assert "did you mean" in refused("[ingest.forestmw]\nallow_unsigned = true")[0]


def test_doorbells_and_jobs_do_not_share_a_forestmq() -> None:
    """Each taker would take what is the other's: there are no topics in it."""
    text = """
[queue]
kind = "{kind}"
[queue.forestmq.topics]
"email.send" = "http://127.0.0.1:8005"
[ingest.forestmq.topics]
"email.job" = "http://127.0.0.1:8005/"
"""
    (line,) = refused(text.format(kind="forestmq"))

    assert line.startswith("emailer.toml:7: ingest.forestmq.topics.email.job: shares ")
    assert "start a second one for jobs" in line
    assert load(write(text.format(kind="embedded")), environ={})

"""Alert rules and dashboard name what there is, and every alert says what to do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emailerctl.core.alerts import AlertName
from emailerctl.metrics.meter import Meter
from emailerctl.metrics.registry import METRICS, Metric, series_of
from tests.house.sources import ROOT

RULES = ROOT / "etc/prometheus/emailer.rules.yml"
RULES_TEST = ROOT / "etc/prometheus/emailer.rules.test.yml"
DASHBOARD = ROOT / "etc/grafana/dashboards/emailer.json"
RUNBOOK = ROOT / "docs/operations.md"
COMPOSE = ROOT / "docker-compose.yml"

KNOWN = {name: metric for metric in METRICS for name in series_of(metric)}
_USE = re.compile(r"\b(emailer_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_OUTSIDE = {"job", "instance", "le"}  # labels that Prometheus itself gives


def find_strings(value: Any, key: str) -> Iterator[str]:
    """Yield what stands under *key*, anywhere in a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, str):
                yield inner
            yield from find_strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find_strings(inner, key)


def find_expressions() -> Iterator[tuple[str, str]]:
    rules = RULES.read_text()
    for found in re.finditer(r"expr: (?:>-\n((?: {10,}.*\n)+)|(.*))", rules):
        yield "rules", found[1] or found[2]
    dashboard = json.loads(DASHBOARD.read_text())
    for key in ("expr", "definition"):
        for expression in find_strings(dashboard, key):
            yield "dashboard", expression


def find_faults(expression: str) -> Iterator[str]:
    """Yield what an expression names that is not there."""
    for name, selector in _USE.findall(expression):
        if name not in KNOWN:
            yield f"no metric {name}"
            continue
        for label, operator, value in _MATCHER.findall(selector):
            yield from _find_label_faults(KNOWN[name], label, operator, value)


def _find_label_faults(metric: Metric, label: str, operator: str, value: str) -> Iterator[str]:
    if label in _OUTSIDE:
        return
    if label not in metric.labels:
        yield f"{metric.name} has no label {label}"
    elif (known := metric.labels[label]) and not value.startswith("$"):
        wanted = value.split("|") if "~" in operator else [value]
        yield from (
            f"{label} of {metric.name} is never {one}"
            for one in wanted
            if one not in (*known, "other")
        )
    elif label == "name" and value not in set(AlertName):
        yield f"there is no alert {value}"


def test_what_they_name_is_there() -> None:
    expressions = list(find_expressions())

    assert {where for where, _ in expressions} == {"rules", "dashboard"}
    assert len(expressions) > 50
    assert [fault for _, text in expressions for fault in find_faults(text)] == []


def test_a_wrong_name_would_be_found() -> None:
    wrong = (
        'sum(emailer_nothing) + emailer_attempts_total{colour="red"} + '
        'emailer_attempts_total{outcome=~"accepted|lost"} + emailer_alert{name="boredom"}'
    )

    assert list(find_faults(wrong)) == [
        "no metric emailer_nothing",
        "emailer_attempts_total has no label colour",
        "outcome of emailer_attempts_total is never lost",
        "there is no alert boredom",
    ]


def test_every_metric_that_is_worth_having_is_shown() -> None:
    shown = {name for _, text in find_expressions() for name, _ in _USE.findall(text)}

    assert [m.name for m in METRICS if not shown.intersection(series_of(m))] == []


def test_every_alert_says_what_to_do() -> None:
    rules, runbook = RULES.read_text(), RUNBOOK.read_text()
    names = re.findall(r"alert: (\w+)", rules)
    links = re.findall(r"runbook: docs/operations\.md#(\S+)", rules)
    headings = re.findall(r"^### (Emailer\w+)$", runbook, re.M)

    assert len(names) == len(set(names)) == rules.count("summary:") == rules.count("severity:")
    assert links == [name.lower() for name in names]
    assert sorted(headings) == sorted(names)


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]

    assert dashboard["uid"] == "emailerctl"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    variables = {f"${variable['name']}" for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\w+", DASHBOARD.read_text().replace("${datasource}", "")))
    assert used <= variables
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_nobody_is_let_in_by_a_password_that_everybody_knows() -> None:
    """The profile `observability`: no password at all, nothing to change, loopback only."""
    text = COMPOSE.read_text()
    watchers = text[text.index("  prometheus:") :]

    assert "PASSWORD" not in watchers
    for line in (
        'GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION: "true"',
        'GF_AUTH_BASIC_ENABLED: "false"',
        'GF_AUTH_DISABLE_LOGIN_FORM: "true"',
        "GF_AUTH_ANONYMOUS_ORG_ROLE: Viewer",
    ):
        assert line in watchers
    published = re.findall(r'"\$\{\w+_LISTEN:-([\d.]+):\d+\}:\d+"', text)
    assert set(published) == {"127.0.0.1"}
    assert re.findall(r"image: .*:latest", watchers) == []


def promtool(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    command = [program, *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.mark.parametrize(
    "words", [("check", "rules", RULES), ("test", "rules", RULES_TEST)], ids=["check", "test"]
)
def test_prometheus_takes_the_rules(words: tuple[str | Path, ...]) -> None:
    done = promtool(*words)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_figures() -> None:
    meter = Meter(['re"lay'])
    meter.add(METRICS[0], "accepted")
    done = promtool("check", "metrics", stdin=meter.render({}))

    assert done.returncode == 0, done.stdout + done.stderr

"""What people see: the starters and the preview page, in a real browser.

Chromium of the system (on Debian: apt-get install chromium); `.ci/run` brings it.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from emailerctl.templates.base import decode_bundle
from emailerctl.templates.compiling import compile_template
from emailerctl.templates.folder import STARTERS, read_folders, write_files
from emailerctl.templates.rendering import build_environment, render
from tests.chromium import PROGRAM, Page, open_page
from tests.cli.world import build_environment as build_surroundings

WHITE, SLATE = "rgb(255, 255, 255)", "rgb(30, 41, 59)"
IS_READY = "document.getElementById('state').textContent.includes('kB')"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the preview of *folder*; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "emailerctl", "templates", "preview", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=build_surroundings(),
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")
@pytest.mark.slow
async def test_what_people_see(tmp_path: Path) -> None:
    """One browser for all of it: its start is what costs."""
    async with open_page(tmp_path) as page:
        await look_at_starters(page, tmp_path)
        await use_preview(page, tmp_path)


async def look_at_starters(page: Page, tmp_path: Path) -> None:
    """Text, boxes and colours, in light and dark, on a desk and on a phone."""
    folders = read_folders(STARTERS)
    shared = folders.pop("_shared")
    for name, files in folders.items():
        bundle = decode_bundle(compile_template(name, files, shared).bundle or b"")
        mail = render(bundle, build_environment(bundle), bundle.examples, "")
        file = tmp_path / f"{name}.html"
        file.write_text(mail.html)
        for width, is_dark in ((1000, False), (375, True)):
            await page.look_at(file.as_uri(), width=width, is_dark=is_dark)
            [card] = await page.measure(".card")
            title = (await page.measure(".card .text"))[0]
            buttons = await page.measure(".action a")
            overflow = await page.evaluate(
                "document.documentElement.scrollWidth - window.innerWidth"
            )
            colour = await page.evaluate(
                "getComputedStyle(document.querySelector('.card > table')).backgroundColor"
            )
            words = await page.evaluate("document.body.innerText")

            assert overflow <= 0, name
            assert colour == (SLATE if is_dark else WHITE), name
            assert card["width"] == (560 if width == 1000 else 351), name
            assert card["left"] == (220 if width == 1000 else 12), name
            assert card["left"] < title["left"] < title["right"] < card["right"], name
            assert all(40 <= box["height"] <= 60 for box in buttons), name
            assert len(buttons) == (name != "password-reset"), name
            assert "Example Ltd" in words


async def use_preview(page: Page, tmp_path: Path) -> None:
    """T-20: the mail is in a frame that may run nothing; what is typed and saved is shown."""
    folder = tmp_path / "t"
    files = {
        "template.toml": '[variables.name]\ntype = "string"\nexample = "Ann"\n',
        "subject.txt": "Hello {{ name }}",
        "body.html": (
            '<meta name="viewport" content="width=device-width">'
            "<style>:root { color-scheme: light dark } p { color: rgb(1, 2, 3) }"
            "@media (prefers-color-scheme: dark) { p { color: rgb(4, 5, 6) } }</style>"
            "<p>Dear {{ name }}</p><script>top.document.title = 'taken'</script>"
        ),
    }
    write_files(folder / "hello", files)
    with serving(folder) as url:
        await page.look_at(url)
        await page.until(IS_READY)
        assert await page.evaluate("document.getElementById('subject').textContent") == (
            "Hello Ann"
        )
        await page.evaluate(
            "(() => { const i = document.querySelector('[name=name]'); i.value = '<b>Bob';"
            "i.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        subject = "document.getElementById('subject').textContent"
        await page.until(f"{subject} === 'Hello <b>Bob'")
        for view, width in (("dark-mobile", 375), ("desktop", 680)):
            await page.evaluate(f"document.querySelector('[data-view={view}]').click()")
            [frame] = await page.measure("#mail")
            assert frame["width"] == width
        await page.evaluate("document.querySelector('[data-view=text]').click()")
        plain = "document.getElementById('plain').textContent"
        await page.until(f"{plain}.includes('Dear <b>Bob')")
        (folder / "hello" / "subject.txt").write_text("Saved {{ name }}")
        await page.until(f"{subject} === 'Saved <b>Bob'")
        (folder / "hello" / "subject.txt").write_text("{{ nobody }}")
        findings = "document.getElementById('findings').textContent"
        await page.until(f"{findings}.includes('nobody is not declared')")
        assert await page.evaluate("document.title") == "Templates"


def test_the_preview_answers_its_own_page_only(tmp_path: Path) -> None:
    """T-20: no other page, no other name, and a mail has a policy of its own."""
    folders = read_folders(STARTERS)
    write_files(tmp_path / "welcome", folders["welcome"])
    write_files(tmp_path / "_shared", folders["_shared"])
    asked = {
        "name": "welcome",
        "variables": {"name": "Ann", "start_url": "https://example.org"},
        "locale": "de",
    }
    with serving(tmp_path) as url, httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert client.post("/render", json=asked).status_code == 403
        for path in ("/%2e%2e/page.js", "/x", "/mail/none", "/page.html"):
            assert client.get(path).status_code == 404
        made = client.post("/render", json=asked, headers={"X-Preview": "1"}).json()
        page, mail = client.get("/"), client.get(f"/mail/{made['mail']}?scheme=dark")

        assert made["subject"] == "Willkommen bei Example, Ann"
        assert (
            "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
        )
        policy = mail.headers["content-security-policy"]
        assert policy.startswith(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        )
        assert "; sandbox;" in policy
        assert "sandbox" in page.text
        assert "(min-width: 0)" in mail.text
        assert "prefers-color-scheme" not in mail.text

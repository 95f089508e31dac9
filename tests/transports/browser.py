"""A real browser: Debian's chromium, installed where that can be done without asking, asked for where it cannot."""

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    return _found() or _installed() or pytest.fail("chromium is missing: install it, or name it in CHROMIUM", pytrace=False)


def _found() -> str | None:
    return shutil.which(os.environ.get("CHROMIUM", "chromium")) or shutil.which("/usr/bin/chromium")


def _installed() -> str | None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]):
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _found()


@asynccontextmanager
async def browsing(profile: Path) -> AsyncGenerator[Page]:
    """A page of a browser that has never been used before, and that fails the test if it asks anybody but the loopback."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch_persistent_context(profile, executable_path=chromium(), headless=True, args=FLAGS)
        try:
            yield browser.pages[0]
        finally:
            await browser.close()

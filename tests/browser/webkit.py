"""Debian's WebKitGTK, driven by WebDriver, with what the tests ask of Playwright's browsers: a few methods of each.

Playwright drives a WebKit of its own alone. GTK draws to `broadwayd`, its display for web browsers, without a screen;
nobody looks at it.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

DRIVER = "WebKitWebDriver"
DISPLAY_SERVER = "broadwayd"
TIMEOUT = 60  # seconds in which what a test waits for must have come

# Playwright's `evaluate`: an expression, or a function that is called with the argument; a promise is awaited.
EVALUATE = """
const [argument, done] = arguments;
(async () => {
  const value = (%s);
  return typeof value === "function" ? value(argument) : value;
})().then((value) => done({ value }), (error) => done({ error: `${error}\\n${error.stack}` }));
"""
WAIT = """
async (argument) => {
  for (;;) {
    const value = (%s);
    if (await (typeof value === "function" ? value(argument) : value)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));  // as Playwright does: nothing tells when it is true
  }
}
"""
LISTEN = """
() => {
  const heard = (globalThis.complaints = []);
  addEventListener("error", ({ message }) => heard.push(message));
  addEventListener("unhandledrejection", ({ reason }) => heard.push(String(reason)));
  document.addEventListener("securitypolicyviolation", (event) => heard.push(event.violatedDirective));
  for (const name of ["error", "warn"]) {
    const say = console[name];
    console[name] = (...words) => {
      heard.push(words.join(" "));
      say.apply(console, words);
    };
  }
}
"""


class Page:
    """A tab."""

    def __init__(self, browser: "Browser", handle: str) -> None:
        self.browser = browser
        self.handle = handle
        self._heard: list[str] = []

    @property
    def driver(self) -> webdriver.WebKitGTK:
        """The driver, which from now on speaks to this tab."""
        driver = self.browser.driver
        driver.switch_to.window(self.handle)
        return driver

    def goto(self, url: str) -> None:
        self._collect()
        self.driver.get(url)
        self.evaluate(LISTEN)

    def reload(self) -> None:
        self._collect()
        self.driver.refresh()
        self.evaluate(LISTEN)

    def evaluate(self, expression: str, arg: Any = None) -> Any:
        """Raises RuntimeError, with what the script threw."""
        answer = self.driver.execute_async_script(EVALUATE % expression, arg)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer.get("value")

    def wait_for_function(self, expression: str, *, arg: Any = None) -> None:
        self.evaluate(WAIT % expression, arg)

    def wait_for_timeout(self, timeout: float) -> None:
        """In milliseconds."""
        self.evaluate(f"new Promise((resolve) => setTimeout(resolve, {timeout}))")

    def close(self) -> None:
        self.driver.close()

    @contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """Errors, warnings and violations of the Content-Security-Policy, from when a page has loaded.

        The driver cannot read the console. What fails before that shows in what the page then does not do.
        """
        yield self._heard
        self._collect()

    def _collect(self) -> None:
        self._heard += self.evaluate("globalThis.complaints?.splice(0) ?? []")


class Context:
    """The tabs of one test. Other than Playwright's, all contexts share one profile."""

    def __init__(self, browser: "Browser") -> None:
        self.browser = browser
        self._opened: list[Page] = []

    @property
    def pages(self) -> list[Page]:
        handles = self.browser.driver.window_handles
        return [page for page in self._opened if page.handle in handles]

    def new_page(self) -> Page:
        driver = self.browser.driver
        driver.switch_to.window(self.browser.first)
        driver.switch_to.new_window("tab")
        page = Page(self.browser, driver.current_window_handle)
        self._opened.append(page)
        return page

    def close(self) -> None:
        for page in self.pages:
            page.close()
        self.browser.driver.switch_to.window(self.browser.first)
        self.browser.driver.delete_all_cookies()


class Browser:
    """A MiniBrowser, whose first tab stays empty: it keeps the browser open."""

    def __init__(self, driver: webdriver.WebKitGTK) -> None:
        driver.set_script_timeout(TIMEOUT)
        self.driver = driver
        self.first = driver.current_window_handle

    def new_context(self) -> Context:
        return Context(self)


def mini_browser() -> str:
    """The path of the browser that comes with the driver's library. Raises FileNotFoundError without one."""
    for path in Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"):
        return str(path)
    raise FileNotFoundError("No MiniBrowser of WebKitGTK below /usr/lib: install webkit2gtk-driver.")


@contextmanager
def display(directory: str) -> Iterator[dict[str, str]]:
    """A display of its own for GTK: what a program's environment must say of it."""
    environment = os.environ | {"XDG_RUNTIME_DIR": directory, "GDK_BACKEND": "broadway"}
    with ExitStack() as stack:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [DISPLAY_SERVER, "--address", "127.0.0.1", "--port", str(port), ":0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert process.stdout
        stack.enter_context(process.stdout)
        if "Listening" not in (said := process.stdout.readline()):
            raise RuntimeError(f"{DISPLAY_SERVER} does not start: {said}")
        yield environment | {"BROADWAY_DISPLAY": ":0"}


@contextmanager
def launch() -> Iterator[Browser]:
    """A browser that ends with the block, as do its driver and its display."""
    options = Options()
    options.binary_location = mini_browser()
    options.add_argument("--automation")
    with tempfile.TemporaryDirectory() as directory, display(directory) as environment:
        # A container's root can have no sandbox.
        environment |= {"WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1", "HOME": directory}
        service = Service(shutil.which(DRIVER), env=environment)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of selenium, about itself
            driver = webdriver.WebKitGTK(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()

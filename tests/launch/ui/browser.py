"""A real browser: Debian's Chromium, driven by Selenium, without a network."""

import shutil
from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking", "--no-first-run")


class Browser:
    """Made by `open_browser`. What is looked for is waited for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def look_at(self, url: str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Opens a page as on a screen of that size in CSS pixels; below 500 it is a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.get(url)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        found: WebElement = self.wait(lambda: next(iter(self.all(selector)), None), f"{selector} is not there")
        return found

    def text(self, selector: str = "body") -> str:
        return str(self.run(f"return document.querySelector({selector!r})?.innerText ?? ''"))

    def wait_for(self, text: str, selector: str = "body") -> None:
        self.wait(lambda: text in self.text(selector), f"{text!r} does not appear in {selector}")

    def wait(self, is_so: Callable[[], Any], otherwise: str) -> Any:
        return WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05).until(lambda _: is_so(), otherwise)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console has said since the last time: errors of scripts, what the policy blocked, answers that are errors.

        That a server could not be reached is left out: every test ends its own.
        """
        return [entry["message"] for entry in self.driver.get_log("browser") if "net::ERR_" not in entry["message"]]


def open_browser() -> Browser:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Browser(webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)))

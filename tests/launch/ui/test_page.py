"""The page as people have it: in a real browser, by mouse and keyboard, wide and narrow, light and dark."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from launch.config.storage import storage_of
from launch.runs.record import run_store_of
from launch.ui.access import access_for
from orchestrator.control.causes import Cause
from orchestrator.records.keys import log_key, segment_key
from tests.launch.stored_runs import FINISHED, RUNNING, put_checkpoint, put_steps, status_of, store_at, stored_run
from tests.launch.ui.browser import CHROMIUM, DRIVER, Browser, open_browser
from tests.launch.ui.serving import FakeController, serving
from tests.orchestrator.control.stories import failed, fault, gone, placed

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="NO CHROMIUM: `apt-get install chromium chromium-driver`, as .ci/run does; the page is not tested",
    ),
]
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    browser = open_browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(opened: Browser) -> Iterator[Browser]:
    """Ends on a blank page, and fails where a script or the policy complained."""
    opened.complaints()
    yield opened
    complaints = opened.complaints()
    opened.look_at("about:blank")
    assert not complaints


def live(root: Path, **changes: Any) -> dict[str, Any]:
    workers = [
        {"rank": rank, "node": node, "pid": 100 + rank, "phase": "training", "step": 30, "last_progress_s": 0.2, "silent_s": 0.1}
        for rank, node in enumerate("ab")
    ]
    return status_of(root, live=True, seen_s_ago=0.1, workers=workers, num_workers=2, spares=1, standbys=2, tokens_per_s=900.0, **changes)


def ranks(steps: dict[str, int], still_s: float = 0.2) -> list[dict[str, Any]]:
    found = enumerate(steps.items())
    return [
        {"node": node, "machine": node.upper(), "hottest_c": 71.0, "ranks": [[rank, "training", step, still_s]]}
        for rank, (node, step) in found
    ]


def finished(root: Path) -> None:
    config = stored_run(root, FINISHED, "train.num_steps=40")
    put_steps(root, 1, range(1, 34))
    put_steps(root, 2, range(21, 41))
    put_checkpoint(root, config, attempt=2, step=40)


def test_the_list_leads_to_a_run(tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    for number in range(5):
        stored_run(tmp_path, RUNNING, f"name=other-{number}")
    with serving(storage_of(str(tmp_path))) as port:
        browser.look_at(f"http://127.0.0.1:{port}/")
        browser.wait_for("6 runs in")
        row = browser.text("tbody tr")
        assert [word in row for word in ("first", "finished", "40 / 40", "5.0000", "finished at step 40")] == [True] * 5
        browser.one("#filter").send_keys("finished")
        browser.wait(lambda: len(browser.all("tbody tr")) == 1, "the filter leaves more than one")
        browser.one("tbody a").click()
        browser.wait_for("step 40 of 40")
        assert browser.driver.title == "first · braid"


def test_a_run_that_is_over_shows_all_that_the_store_has(tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    with serving(storage_of(str(tmp_path))) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for("The run is over; from the store.")
        facts = {item.get_attribute("data-key"): item.text for item in browser.all(".facts li")}
        assert list(facts) == ["moving", "recovering", "at_stake", "loss", "grad_norm", "pace", "culprit", "spares"], (
            "in this order at 3 a.m."
        )
        assert "killed, rank 1, node B, at step 33" in facts["culprit"]
        assert browser.text("#command") == f"braid verify first --storage {tmp_path}"
        browser.wait(lambda: browser.all("[data-curve=loss] canvas"), "no curve of the loss")
        assert "40 points, the last 5.0000 at step 40" in browser.one("[data-curve=loss] [role=img]").get_attribute("aria-label")
        browser.wait_for("committed", "[aria-labelledby=checkpoints]")
        assert "13 steps trained again" in browser.text("[aria-labelledby=incidents]")


def test_what_is_new_appears_by_itself(tmp_path: Path, browser: Browser) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    put_steps(tmp_path, 1, range(1, 31))
    controller = FakeController(live(tmp_path, step=30), nodes=ranks({"a": 30, "b": 30}))
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for("step 30 of 40")
        browser.wait_for("Live, from its controller.")
        controller.now = live(tmp_path, step=31, state="recovering", reason="rank 1 was killed")
        browser.wait_for("step 31 of 40")
        browser.wait_for("recovering", ".state")
        browser.wait_for("rank 1 was killed")
        controller.now = None
        browser.wait_for("From the store alone, since no controller tells more.")


def test_a_server_that_went_away_is_told_and_found_again(tmp_path: Path, browser: Browser) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(live(tmp_path, step=30))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(storage_of(str(tmp_path)), controller.find, port=port):
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for("connected", "#connection")
    browser.wait_for("connection lost", "#connection")
    assert "step 30 of 40" in browser.text()
    controller.now = live(tmp_path, step=35)
    with serving(storage_of(str(tmp_path)), controller.find, port=port):
        browser.wait_for("step 35 of 40")
        browser.wait_for("connected", "#connection")
    browser.wait_for("connection lost", "#connection")


def test_what_a_run_says_of_itself_is_never_markup(tmp_path: Path, browser: Browser) -> None:
    trouble = failed(1, fault(Cause.CONFIG, "a", ranks=2, nodes=2, detail=SCRIPT))
    stored_run(tmp_path, (placed(1, "ab"), trouble, gone(1)))
    controller = FakeController(None, log=f"begin\n{SCRIPT}\n".encode())
    with serving(storage_of(str(tmp_path)), lambda run, storage: controller) as port:
        browser.look_at(f"http://127.0.0.1:{port}/")
        browser.wait_for(SCRIPT, "tbody")
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for(SCRIPT, "[aria-labelledby=incidents]")
        browser.look_at(f"http://127.0.0.1:{port}/run/%3Cimg%20src%3Dx%3E")
        browser.wait_for("name='<img src=x>'", ".trouble")
        assert "taken" not in browser.driver.title
        assert not browser.all("main img, main script")
    assert all("404" in line for line in browser.complaints()), "only of the run that is not there"


def test_a_long_run_on_a_thousand_nodes_is_drawn(tmp_path: Path, browser: Browser) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=100000")
    lines = b"".join(b'{"step":%d,"attempt":1,"loss":%f,"grad_norm":1.0,"tokens":1024}\n' % (n, 2 + n % 7) for n in range(1, 100_000))
    run_store_of(store_at(tmp_path), "first").create(segment_key(1, 1, 99_999), lines)
    put_steps(tmp_path, 1, range(100_000, 100_001))
    nodes = [
        {"node": f"n{n}", "machine": f"host-{n}", "hottest_c": None, "ranks": [[8 * n + m, "training", 40, 0.1] for m in range(8)]}
        for n in range(1000)
    ]
    nodes[500]["ranks"][3][2] = 30
    controller = FakeController(live(tmp_path, step=40), nodes=nodes)
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first", height=2000)
        browser.wait(lambda: browser.all("[data-curve=loss] canvas"), "no curve")
        label = browser.one("[data-curve=loss] [role=img]").get_attribute("aria-label")
        assert label.endswith("at step 100,000")
        assert int(label.split()[1].replace(",", "")) < 5000, "as many points as a screen has pixels"
        browser.wait(lambda: len(browser.all(".nodes button")) == 1000, "no thousand nodes")
        (behind,) = browser.all(".nodes button:has(.behind)")
        assert behind.get_attribute("aria-label") == "host-500: 8 ranks, one behind"
        behind.click()
        browser.wait_for("Ranks on host-500")
        assert "10 steps" in browser.text("[aria-labelledby=ranks] table")


def test_incidents_are_told_hop_by_hop_and_the_time_adds_up(tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    run_store_of(store_at(tmp_path), "first").put(log_key(1, 1), f"Traceback (most recent call last):\n  x\nOSError: {SCRIPT}\n".encode())
    with serving(storage_of(str(tmp_path))) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for("First seen by the agent of B, by the end of rank 1.")
        assert "next attempt" in browser.text(".bars")
        browser.one(".incident summary").click()
        browser.wait_for(f"OSError: {SCRIPT}", ".incident details")
        assert not browser.all(".incident img")
        browser.wait(lambda: browser.all(".timeline path"), "no picture of the time")
        shares = [float(one.text.split()[0]) for one in browser.all(".classes strong")]
        assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def test_logs_are_searched_and_the_first_error_comes_first(tmp_path: Path, browser: Browser) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    lines = [f"step {number}: fine" for number in range(1, 400)]
    lines[99:102] = ["Traceback (most recent call last):", "  in a file", "ValueError: the first of them"]
    lines[299] = f"2026-11-29 12:00:00 ERROR a consequence {SCRIPT}"
    controller = FakeController(live(tmp_path, step=30), log="\n".join(lines).encode())
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.one("#log-search").send_keys(Keys.ENTER)
        browser.wait_for("First error at line 100: ValueError: the first of them")
        box, first = browser.one(".log").rect, browser.one(".log .first-error").rect
        assert box["y"] <= first["y"] <= box["y"] + box["height"], "it is scrolled to"
        browser.one("#log-search").send_keys("consequence", Keys.ENTER)
        browser.wait_for("1 line of 399 with “consequence”")
        assert SCRIPT in browser.text(".log")
        assert not browser.all(".log img, .log script")


def test_everything_is_reached_by_keyboard(tmp_path: Path, browser: Browser) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    put_steps(tmp_path, 1, range(1, 31))
    controller = FakeController(live(tmp_path, step=30), nodes=ranks({"a": 30, "b": 28}))
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first", height=2000)
        browser.wait(lambda: len(browser.all(".nodes button")) == 2, "no nodes")
        reached = []
        for _ in range(11):
            browser.driver.switch_to.active_element.send_keys(Keys.TAB)
            reached.append(
                browser.run("const at = document.activeElement; return at.getAttribute('aria-label') || at.id || at.textContent")
            )
        ways = ["Skip to the content", "braid", "Copy", "Step", "Time", "Whole run", "A: 1 rank, level"]
        assert reached == [*ways, "log-attempt", "log-rank", "log-search", "Show"]
        browser.all(".nodes button")[0].send_keys(Keys.ARROW_RIGHT)
        browser.wait_for("Ranks on B, its hottest GPU at 71 °C")
        assert "2 steps" in browser.text("[aria-labelledby=ranks] table")
        assert browser.driver.switch_to.active_element.get_attribute("aria-label") == "B: 1 rank, one behind", "the focus goes along"


def test_it_has_the_landmarks_names_and_labels_that_a_screen_reader_goes_by(tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    with serving(storage_of(str(tmp_path))) as port:
        for path in ("/", "/run/first"):
            browser.look_at(f"http://127.0.0.1:{port}{path}")
            browser.wait(lambda: browser.all("main h1"), "no heading")
            assert browser.one("html").get_attribute("lang") == "en"
            assert [len(browser.all(one)) for one in ("main", "header", "nav[aria-label]", "h1", "[role=status]#connection")] == [1] * 5
            assert not browser.run(NAMELESS)
            assert not browser.run(DANGLING)
            ids = browser.run("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
            assert len(ids) == len(set(ids))


NAMELESS = """
return [...document.querySelectorAll("input, select, button, progress, [role=img], [role=region], [role=group]")]
  .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label"))).map((one) => one.outerHTML);
"""
DANGLING = """
return [...document.querySelectorAll("section")].filter((one) => !document.getElementById(one.getAttribute("aria-labelledby")));
"""
CONTRAST = """
const channel = (value) => { const part = value / 255; return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
function ground(one) {
  const found = rgb(getComputedStyle(one).backgroundColor);
  return found.length < 4 || found[3] === 1 ? found : ground(one.parentElement);
}
function contrast(one) {
  const [low, high] = [light(rgb(getComputedStyle(one).color)), light(ground(one))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
const hasText = (one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
return [...document.querySelectorAll("main *, header *")].filter((one) => one.checkVisibility() && hasText(one) && contrast(one) < 4.5)
  .map((one) => one.outerHTML.slice(0, 120));
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str, tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    with serving(storage_of(str(tmp_path))) as port:
        browser.look_at(f"http://127.0.0.1:{port}/run/first", scheme=scheme)
        browser.wait_for("committed", "[aria-labelledby=checkpoints]")
        ground = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(ground) < 384) == (scheme == "dark")
        assert not browser.run(CONTRAST), "a contrast below 4.5"


@pytest.mark.parametrize("path", ["/", "/run/first"])
def test_on_a_phone_nothing_is_scrolled_sideways(path: str, tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    stored_run(
        tmp_path,
        (placed(1, "ab"), failed(1, fault(Cause.CONFIG, "a", ranks=2, nodes=2, detail="x" * 300)), gone(1)),
        f"name={'long-' * 12}",
    )
    with serving(storage_of(str(tmp_path))) as port:
        browser.look_at(f"http://127.0.0.1:{port}{path}", width=390, height=844)
        browser.wait_for("finished")
        browser.wait(lambda: path == "/" or browser.all("[data-curve=loss] canvas"), "no curve")
        assert browser.run("return document.documentElement.scrollWidth") == 390


def test_the_token_of_the_printed_address_is_remembered_and_leaves_the_address(tmp_path: Path, browser: Browser) -> None:
    finished(tmp_path)
    with serving(storage_of(str(tmp_path)), access=access_for("127.0.0.1", "secret")) as port:
        browser.look_at(f"http://127.0.0.1:{port}/?token=secret")
        browser.wait_for("1 run in")
        assert browser.driver.current_url == f"http://127.0.0.1:{port}/"
        assert "secret" not in browser.run("return document.cookie")
        browser.look_at(f"http://127.0.0.1:{port}/run/first")
        browser.wait_for("step 40 of 40")

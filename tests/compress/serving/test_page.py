"""The page draws in a browser, at a desk and on a telephone, and says what is wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_engine import Fake
from headless import emulate

from export.runtime.shape import Shape

uvicorn = pytest.importorskip("uvicorn")
from compress.serving.app import Service, app_of  # noqa: E402
from compress.serving.server import bound, url  # noqa: E402
from compress.serving.settings import Settings  # noqa: E402

NAMES = ("cat", 'a "dog" & <b>more</b>', "x" * 200)
SHAPE = Shape("causal", vocabulary=256, classes=3, grid=(1, 2), class_names=NAMES)
WAIT_S = 20
LAST_SEED = 2**64 - 1


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Fake]]:
    """A service of an engine with names, and the engine."""
    engine = Fake(shape=SHAPE)
    engine.gate.set()
    server = uvicorn.Server(uvicorn.Config(app_of(Service(engine, Settings())), log_level="warning"))  # type: ignore[arg-type]
    with bound("127.0.0.1", 0) as listener:
        address = url(listener)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        until(lambda: server.started)
        yield address, engine
        server.should_exit = True
        running.join(WAIT_S)


def until(condition: Any) -> Any:
    """What a condition gives once it gives something."""
    ends = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    return found


def text(browser: Any, name: str) -> str:
    return str(browser.find_element("id", name).text)


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "telephone"])
def test_the_page_draws_what_is_chosen(size: tuple[int, int], browser: Any, served: tuple[str, Fake]) -> None:
    emulate(browser, size)
    browser.get(served[0])
    form = browser.find_element("id", "form")
    until(form.is_displayed)
    options = browser.find_elements("css selector", "#label option")
    assert [each.get_property("text") for each in options] == [*NAMES, "no class"]
    options[1].click()
    browser.find_element("id", "seed").send_keys(str(LAST_SEED))
    browser.find_element("id", "draw").click()
    pictures = until(lambda: browser.find_elements("css selector", "figure img"))
    assert len(pictures) == 4
    assert pictures[1].get_attribute("alt") == f"{NAMES[1]}, seed {LAST_SEED}, picture 2"
    assert pictures[1].get_property("naturalWidth") == 2
    assert text(browser, "status").startswith(f"4 pictures of {NAMES[1]}, seed {LAST_SEED}, ")
    assert text(browser, "error") == ""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_every_control_has_a_name_and_is_reached_by_keyboard(browser: Any, served: tuple[str, Fake]) -> None:
    emulate(browser, (1280, 900))
    browser.get(served[0])
    until(browser.find_element("id", "form").is_displayed)
    browser.find_element("css selector", "summary").click()
    controls = browser.find_elements("css selector", "select, input, button")
    assert [each.accessible_name for each in controls] == [
        *("Class", "Pictures", "Seed", "Guidance", "Temperature", "Top k", "Top p", "Draw")
    ]
    assert all(each.rect["height"] >= 44 for each in controls)
    browser.find_element("id", "seed").send_keys("7\n")
    until(lambda: browser.find_elements("css selector", "figure img"))


def test_what_the_service_refuses_is_shown(browser: Any, served: tuple[str, Fake]) -> None:
    browser.get(served[0])
    until(browser.find_element("id", "form").is_displayed)
    served[1].broken = {0}
    browser.find_element("id", "draw").click()
    assert until(lambda: text(browser, "error")) == "label is broken"
    assert text(browser, "status") == ""
    served[1].broken = set()
    browser.find_element("id", "draw").click()
    until(lambda: browser.find_elements("css selector", "figure img"))
    assert text(browser, "error") == ""

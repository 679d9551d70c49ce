"""A site draws in Chromium, from a plain file server, the tokens and pictures of the engine that it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from headless import emulate, served
from selenium.webdriver.support.ui import Select, WebDriverWait

from compress.cli import main
from export.graph.builder import Builder
from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import hoist
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.single_step import FLOAT, INT64, fed, typed
from export.runtime.engine import Engine
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.targets import fuse
from export.web.site import SiteError, rounds, write

STUB = {"ort.wasm.bundle.min.mjs": b"export {};", "ort-wasm-simd-threaded.wasm": b"\0asm"}
SAMPLER = Sampler(top_k=9, temperature=0.9, steps=5, cfg_scale=2.0)
PHONE, DESK = (390, 844), (1200, 900)
NAMES = tuple(f"class {number} <b>" for number in range(10))
SECONDS = 60
DRAWN = """
return [...document.querySelectorAll('canvas')].map(canvas =>
  Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data));
"""

RUN = """
const [content, seed, number, step, done] = arguments;
import("./onnxruntime/ort.js").then(async (ort) => {
  ort.env.wasm.wasmPaths = { wasm: new URL("onnxruntime/ort.wasm", location).href };
  ort.env.logLevel = "error";
  const whole = (text) => new ort.Tensor("int64", [BigInt.asIntN(64, BigInt(text))], []);
  const session = await ort.InferenceSession.create(Uint8Array.from(content));
  const made = await session.run({ seed: whole(seed), number: whole(number), step: whole(step) });
  done(Array.from(made.noise.data));
}).catch((error) => done(`${error}`));
"""


def model_called(exported: Callable[..., OnnxModel], kind: str) -> OnnxModel:
    """A model with names of classes, fused, and hoisted where there is something to hoist."""
    model = exported(kind)
    manifest = replace(model.manifest, sampler=SAMPLER, shape=replace(model.manifest.shape, class_names=NAMES))
    model = fuse(replace(model, manifest=manifest)).model
    return model if kind == "rotary" else hoist(model).model


def saved(model: OnnxModel, folder: Path) -> Path:
    """Its engine folder."""
    folder.mkdir(parents=True)
    model.save(folder)
    return folder


@pytest.fixture(scope="module", params=["rotary", "masked", "next-scale"])
def site(request: Any, exported: Any, runtime: Any, tmp_path_factory: Any) -> Iterator[tuple[str, Engine]]:
    """The address of a site, and its engine."""
    room = tmp_path_factory.mktemp("site")
    model = model_called(exported, request.param)
    engine = saved(model, room / "engine")
    write(model, engine, room / "site", runtime)
    with served(room / "site") as address:
        yield address, Engine.load(engine, threads=1)


def said(browser: Any) -> str:
    """The page's status."""
    return browser.find_element("id", "status").text


def until(browser: Any, ended: Callable[[str], bool]) -> str:
    """The status as soon as it is so."""
    WebDriverWait(browser, SECONDS).until(lambda _: ended(said(browser)))
    return said(browser)


def opened(browser: Any, address: str, size: tuple[int, int]) -> None:
    """The page, ready, as if for the first time."""
    emulate(browser, size)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    until(browser, lambda text: text == "Ready.")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_page_draws_what_the_engine_draws(site: tuple[str, Engine], size: tuple[int, int], browser: Any) -> None:
    address, engine = site
    opened(browser, address, size)
    assert browser.title == "tiny: drawn in your browser"
    assert not browser.execute_script("return crossOriginIsolated"), "a plain file server"
    Select(browser.find_element("id", "label")).select_by_visible_text(NAMES[4])
    for name, value in (("seed", str(2**64 - 1)), ("count", "3")):
        field = browser.find_element("id", name)
        field.clear()
        field.send_keys(value)
    browser.find_element("id", "draw").click()
    assert until(browser, lambda text: " in " in text and text.startswith("3 pictures")).endswith(" s")
    height, width, _ = engine.picture
    found = np.array(browser.execute_script(DRAWN)).reshape(3, height, width, 4)
    wanted = engine.generate([4, 4, 4], seed=2**64 - 1).astype(int)
    np.testing.assert_allclose(found[..., :3], np.broadcast_to(wanted, (*wanted.shape[:3], 3)), atol=1)
    assert (found[..., 3] == 255).all()
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert "seed=18446744073709551615" in browser.current_url, "a link to the same pictures"
    pictures = browser.find_elements("css selector", "canvas")
    assert pictures[2].get_attribute("aria-label") == f"{NAMES[4]}, seed {2**64 - 1}, picture 3"
    times = [each.text for each in browser.find_elements("css selector", ".time")]
    assert all(text.endswith(" s") and float(text[:-2]) >= 0 for text in times)
    links = [each.get_attribute("href") for each in browser.find_elements("css selector", "figcaption a")]
    assert all(link.startswith("data:image/png") for link in links)


def test_every_field_has_a_label_and_room_for_a_finger(site: tuple[str, Engine], browser: Any) -> None:
    opened(browser, site[0], PHONE)
    fields = browser.find_elements("css selector", "select, input, button")
    assert [each.accessible_name for each in fields] == ["Class", "Seed", "Another", "Pictures", "Draw", "Stop"]
    for each in fields:
        assert each.rect["height"] >= 44
        assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].offsetWidth", each)
    assert browser.find_element("id", "status").aria_role == "status"


def test_a_wrong_seed_is_refused_and_another_one_is_offered(site: tuple[str, Engine], browser: Any) -> None:
    opened(browser, f"{site[0]}#seed={2**64}&class=3&count=2", PHONE)
    assert browser.find_element("id", "label").get_attribute("value") == "3"
    browser.find_element("id", "draw").click()
    message = browser.execute_script("return document.getElementById('seed').validationMessage")
    assert message == f"A whole number from 0 to {2**64 - 1}"
    assert said(browser) == "Ready."
    browser.find_element("id", "another").click()
    assert browser.execute_script("return document.getElementById('seed').validationMessage") == ""
    assert 0 <= int(browser.find_element("id", "seed").get_attribute("value")) < 2**32


def test_a_drawing_can_be_stopped(site: tuple[str, Engine], browser: Any) -> None:
    opened(browser, f"{site[0]}#count=64", PHONE)
    browser.find_element("id", "draw").click()
    until(browser, lambda text: text.startswith("Drawing"))
    browser.find_element("id", "stop").click()
    until(browser, lambda text: text == "Stopped.")
    assert browser.find_element("id", "draw").is_enabled()
    assert not browser.find_element("id", "stop").is_enabled()


def test_noise_in_the_browser_is_that_of_numpy(exported: Any, runtime: Any, browser: Any, tmp_path: Path) -> None:
    """Of equal bits: a seed, a picture or a place that is one off would give another number altogether."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="noise")
    seed, number, step = (fed(graph, name, INT64, []) for name in ("seed", "number", "step"))
    build = Builder(graph, None, "noise")
    noise = GraphNoise.of_seed(build, seed, build.numbers("two", 2), number)
    made = noise.gumbel(Builder(graph, None, "made"), step, build.initializer("count", np.array(1000)))
    made.name = "noise"
    graph.outputs.append(typed(made, FLOAT, [2, 1000]))
    content = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    model = model_called(exported, "rotary")
    write(model, saved(model, tmp_path / "engine"), tmp_path / "site", runtime)
    with served(tmp_path / "site") as address:
        opened(browser, address, DESK)
        for given in ((0, 0, 0), (2**63 + 5, 3, 255)):
            found = browser.execute_async_script(RUN, list(content), *map(str, given))
            wanted = Noise(given[0], 2, given[1]).gumbel(given[2], (1000,))
            np.testing.assert_allclose(np.reshape(found, (2, 1000)), wanted, atol=2e-6)


def test_a_graph_that_is_missing_or_damaged_is_named_on_the_page(
    exported: Any, runtime: Any, browser: Any, tmp_path: Path
) -> None:
    model = model_called(exported, "rotary")
    write(model, saved(model, tmp_path / "engine"), tmp_path / "site", runtime)
    graph = tmp_path / "site" / "graphs" / "advance.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with served(tmp_path / "site") as address:
        opened(browser, address, PHONE)
        browser.find_element("id", "draw").click()
        text = until(browser, lambda text: "advance.onnx" in text)
        assert text.startswith("/graphs/advance.onnx: is not what was exported; reload the page")
        graph.unlink()
        browser.find_element("id", "draw").click()
        until(browser, lambda text: text.startswith("/graphs/advance.onnx: the server says 404"))


def test_a_site_is_written_again_over_an_earlier_one_and_over_nothing_else(exported: Any, tmp_path: Path) -> None:
    model = model_called(exported, "rotary")
    engine = saved(model, tmp_path / "engine")
    sizes = [write(model, engine, tmp_path / "site", STUB) for _ in range(2)]
    files = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")}
    assert files == {
        *("index.html", "style.css", "page.js", "worker.js", "drawing.js", "engine.json"),
        *(f"graphs/{name}.onnx" for name in ("start", "advance", "image_decoder")),
        *("onnxruntime/ort.js", "onnxruntime/ort.wasm", "onnxruntime/LICENSE.txt"),
    }
    assert sizes[0] == sizes[1] == sum((tmp_path / "site" / name).stat().st_size for name in files)
    described = json.loads((tmp_path / "site" / "engine.json").read_text())
    assert described["classes"] == list(NAMES)
    assert described["picture"] == [4, 4, 1]
    assert all(described["files"][name]["bytes"] > 0 for name in ("start", "advance", "image_decoder", "onnxruntime"))
    with pytest.raises(SiteError, match=r"engine: holds other files than a site; name another folder"):
        write(model, engine, engine, STUB)
    with pytest.raises(SiteError, match=r"manifest\.json: is a file; name a folder"):
        write(model, engine, engine / "manifest.json", STUB)


def test_engines_that_no_page_can_draw_with_are_refused_in_a_line(exported: Any, tmp_path: Path) -> None:
    model = exported("rotary")
    changed = replace(model.manifest, fixed_batch=2)
    half = replace(model.manifest, floats="bfloat16")
    possible = r"; a page draws with engines of classes, or of none, exported for onnxruntime or standard$"
    for refused, reason in (
        (exported("rotary", "tensorrt"), "is for the target 'tensorrt'"),
        (exported("text"), "draws texts, whose encoder it does not hold"),
        (replace(model, manifest=changed), r"takes 2 rows only \(fixed_batch\)"),
        (replace(model, manifest=half), "computes in bfloat16, which onnxruntime-web does not"),
    ):
        with pytest.raises(SiteError, match=f"^engine: {reason}{possible}"):
            write(refused, Path("engine"), tmp_path / "site", STUB)
    assert not (tmp_path / "site").exists()


def test_the_command_says_what_cannot_be_and_where_the_site_is(exported: Any, runtime: Any, tmp_path: Path) -> None:
    engine, tensorrt = (saved(exported("rotary", target), tmp_path / target) for target in ("standard", "tensorrt"))
    ran = CliRunner().invoke(main, ["export-web", str(tensorrt), "-o", str(tmp_path / "site")])
    assert ran.exit_code == 2
    assert f"error: {tensorrt}: is for the target 'tensorrt'; a page draws with" in ran.stderr
    ran = CliRunner().invoke(main, ["export-web", str(engine), "-o", str(tmp_path / "site"), "--runtime", str(engine)])
    assert ran.exit_code == 2
    assert "ort.wasm.bundle.min.mjs: not readable" in ran.stderr
    ran = CliRunner().invoke(main, ["export-web", str(engine), "-o", str(tmp_path / "site"), "-v"])
    assert ran.exit_code == 0, ran.stderr
    assert f"write {tmp_path / 'site'}: took 0:0" in ran.stderr
    assert f"{tmp_path / 'site'}: 14." in ran.stdout
    assert "is rounded" not in ran.stdout
    rounding = saved(exported("int8 dynamic"), tmp_path / "int8")
    ran = CliRunner().invoke(main, ["export-web", str(rounding), "-o", str(tmp_path / "site"), "-q"])
    assert ran.stderr == ""
    assert "its pictures in a browser are not all those of the engine: what its layers read is rounded" in ran.stdout


@pytest.mark.parametrize(
    ("kind", "rounding"),
    [("rotary", False), ("int8 dynamic", True), ("int8 static", True), ("int4 group", False)],
)
def test_what_is_rounded_while_drawing_is_known(kind: str, rounding: bool, exported: Any) -> None:
    model = exported(kind)
    assert rounds(model) is rounding
    assert rounds(replace(model, manifest=replace(model.manifest, floats="float16")))

import importlib.machinery

import numpy as np
import pytest

from compress.measure.speed import memory


def test_the_peak_counts_what_the_program_touched_and_not_what_its_parent_holds():
    ballast = np.ones(40_000_000)  # 305 MiB here, which a child's ru_maxrss would wrongly count
    bare = memory.peak_of("", [], "bare")
    grown = memory.peak_of("buffer = bytearray(150 * 2**20)\ndel buffer\n", [], "grown")
    assert ballast.nbytes / 2**20 > 300
    assert bare < 100
    assert 145 < grown - bare < 160


def fake_export(folder, monkeypatch, drawing):
    """A package `export` whose Engine does nothing but what `drawing` says."""
    package = folder / "export"
    runtime = package / "runtime"
    runtime.mkdir(parents=True)
    (package / "__init__.py").touch()
    (runtime / "__init__.py").touch()
    (runtime / "drawing.py").write_text("def conditions(shape, count):\n    return list(range(count)), None\n")
    (runtime / "engine.py").write_text(
        f"""
class Engine:
    @classmethod
    def load(cls, folder, threads=0):
        assert str(folder) == "an engine" and threads == 2
        return cls()
    shape = None
    def draw_tokens(self, labels, seed, sampler, features):
        {drawing}
    def decode_images(self, tokens):
        pass
"""
    )
    spec = importlib.machinery.ModuleSpec("export", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: spec)


def test_the_engine_folder_is_loaded_and_a_batch_is_drawn(tmp_path, monkeypatch):
    fake_export(tmp_path, monkeypatch, "self.held = bytearray(50 * 2**20 * len(labels))")
    three, one = (memory.peak_mib("an engine", batch, threads=2) for batch in (3, 1))
    assert 95 < three - one < 105


def test_a_process_that_fails_says_why(tmp_path, monkeypatch):
    fake_export(tmp_path, monkeypatch, "raise OSError('decode.onnx is damaged')")
    with pytest.raises(RuntimeError, match=r"peak memory of an engine: OSError: decode\.onnx is damaged"):
        memory.peak_mib("an engine", 1, threads=2)


def test_a_process_that_dies_silently_says_its_code():
    with pytest.raises(RuntimeError, match="here: it ended with code 3"):
        memory.peak_of("raise SystemExit(3)\n", [], "here")

"""What a process meets: full disks, terminals of ASCII or none, weights that are exchanged while they are read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAINED = """\
name: tiny
tokens: {tokens}
model:  {{grid: [4, 4], vocabulary: 17, classes: 10, width: 32, layers: 1, heads: 4, head_width: 8, ffn: 64,
rotary_base: 100}}
train:  {{steps: 4, batch: 4, warmup: 1, validate_every: 2, threads: 1}}
"""


def test_a_full_disk_in_training_is_one_line(
    corpus: Path, here: Path, process: Callable[..., Any], held: Callable[..., str]
) -> None:
    (here / "r.yaml").write_text(TRAINED.format(tokens=corpus / "tokens.npz"))
    assert "full" in held(process("train", here / "r.yaml", "-o", here / "m", file_kib=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "encoding"), [("report", "ascii"), ("report", "utf-16"), ("generate", "latin-1"), ("run", "ascii")]
)
def test_a_terminal_of_another_encoding_changes_no_exit_code(
    verb: str, encoding: str, corpus: Path, here: Path, process: Callable[..., Any]
) -> None:
    (here / "é\u2013").mkdir()
    shutil.copytree(corpus / "store", here / "store")
    arguments: dict[str, tuple[object, ...]] = {
        "report": ("report", corpus / "run"),
        "generate": ("generate", corpus / "engine", "--labels", 1, "-o", here / "é\u2013" / "o.png"),
        "run": ("run", corpus / "tiny.yaml", "--store", here / "store", "-o", here / "é\u2013", "--skip-preflight"),
    }
    done = process(*arguments[verb], PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr


def test_a_closed_standard_output_is_no_breach(corpus: Path, here: Path, process: Callable[..., Any]) -> None:
    done = process("generate", corpus / "engine", "--labels", 1, "-o", here / "o.png", closed=True)
    assert done.returncode == 0, done.stderr
    assert (here / "o.png").exists()


def test_a_full_standard_output_is_no_breach(corpus: Path, here: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "compress", "models", "inspect", str(corpus / "model")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_breach(corpus: Path, here: Path) -> None:
    command = [sys.executable, "-m", "compress", "store", "list", "--store", str(corpus / "store")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    running.stdout.close()
    _, stderr = running.communicate(timeout=120)
    assert running.returncode != 1, stderr
    assert "Traceback" not in stderr


def test_inception_weights_that_are_exchanged_behind_the_check_are_not_unpickled(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_fidelity")
    import pickle

    import torch

    from compress.core.settings import InputError
    from compress.measure.pictures import features

    class Mischief:
        """A pickle that leaves a mark when it is loaded."""

        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.mkdir, (here / "executed",)  # type: ignore[return-value]

    path, read = here / "inception.pth", torch.load
    torch.save({}, path)

    def exchanging(*given: Any, **named: Any) -> Any:
        content = read(*given, **named)
        path.write_bytes(pickle.dumps({"weights": Mischief()}))
        return content

    monkeypatch.setattr(torch, "load", exchanging)
    with pytest.raises(InputError, match="inception"):
        features.of_inception(path, None)  # type: ignore[arg-type]
    assert not (here / "executed").exists()

"""The graphs of an engine folder, opened in ONNX Runtime when they are first needed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from .devices import Device
from .engine_files import WEIGHTS, Seal
from .errors import EngineError, NoKernelsError, first_line, shown
from .manifest import Manifest
from .processor import exact_products
from .promises import broken
from .providers import CPU, DeviceWarning, FallbackError, open_session
from .sessions import Sessions

NO_BFLOAT16 = "is in bfloat16, which ONNX Runtime does not compute in on CPUs; run its TensorRT plan on a GPU"
FATAL = 4  # what is logged: an error is raised, and one line of it is enough


class Graphs:
    """Sessions of a folder's graphs on one device, each opened once by whichever thread needs it first."""

    def __init__(
        self, folder: Path, manifest: Manifest, seals: Mapping[str, Seal], threads: int, device: Device
    ) -> None:
        self.folder, self.manifest, self.seals, self.threads, self.device = folder, manifest, seals, threads, device
        self._opened: dict[str, onnxruntime.InferenceSession] = {}  # what not every drawing needs
        self.opening = RLock()
        self._sessions: Sessions | None = None

    @property
    def sessions(self) -> Sessions:
        """The graphs that a drawing runs; the image decoder is opened with them."""
        with self.opening:
            if self._sessions is None:
                optional = {name: self._promised(name) for name in ("scales", "begin") if name in self.manifest.files}
                decode = self._promised("decode", optional.get("begin"))
                self._sessions = Sessions(decode, **optional, device=self.device)
                self.opened("image_decoder", "has no image decoder")
            return self._sessions

    def open(
        self, file: str, profile: str = "", path: Path | None = None, device: Device | None = None
    ) -> onnxruntime.InferenceSession:
        """A session of a graph, with a profile in files that begin with this."""
        path = path or self.folder / self.manifest.files[file]
        if self.manifest.floats == "bfloat16":
            raise NoKernelsError(f"{path}: {NO_BFLOAT16}")
        # Steps of the decode graph are alike; the others run once for a picture, with inputs of any size.
        device = device or (self.device if file == "decode" else self.device.without_capture())
        try:
            session = open_session(device, path, self._options(file, profile))
            check_names(session)
            return session
        except FallbackError as error:
            if file not in ("image_decoder", "image_encoder"):
                raise
            # Run once for a picture, these may as well run on the CPU as a whole, where nothing is copied in between.
            warnings.warn(f"{error}; so all of it runs on the CPU", DeviceWarning, stacklevel=2)
            return self.open(file, profile, path, Device())
        except EngineError:
            raise
        except UnicodeDecodeError as error:
            raise EngineError(f"{path}: damaged: a name in it is not UTF-8 ({error})") from error
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({first_line(error)})") from error

    def _options(self, file: str, profile: str) -> onnxruntime.SessionOptions:
        """How ONNX Runtime runs one of the graphs."""
        options = onnxruntime.SessionOptions()
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        options.intra_op_num_threads = self.threads
        options.log_severity_level = FATAL
        # A plan of its large activations would be memory beside the arena that the first picture has filled already.
        options.enable_mem_pattern = file not in ("image_decoder", "image_encoder")
        # Threads of an engine that just finished would go on spinning on the cores that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.manifest.cpu != "any":
            exact_products(options)
        half = self.manifest.floats != "float32"
        if (self.manifest.weight_only or half) and file in ("decode", "begin"):  # an image decoder's are to be fused
            # ONNX Runtime would turn weights with a DequantizeLinear into a kernel that rounds activations to int8. Of
            # half precision it has no int8 kernels, and would unpack the weights at every step instead of once.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options

    def _promised(self, file: str, begin: onnxruntime.InferenceSession | None = None) -> onnxruntime.InferenceSession:
        """The session of one of the folder's graphs, which is what was hashed and what the manifest says."""
        session = self.open(file)
        for role, seal in self.seals.items():
            if role == file or role.endswith(WEIGHTS):
                seal.check()
        if (fault := broken(self.manifest, file, session, begin)) is not None:
            raise EngineError(f"{self.folder / self.manifest.files[file]}: {fault}; export the engine again")
        return session

    @property
    def image_decoder(self) -> onnxruntime.InferenceSession:
        """The graph of the image decoder."""
        return self.opened("image_decoder", "has no image decoder")

    def session(self, role: str) -> onnxruntime.InferenceSession:
        """The session of one of the graphs, as the manifest calls it.

        Raises:
            EngineError: the engine has no such graph.
        """
        steps = self.sessions
        found = {"decode": steps.decode, "begin": steps.begin, "scales": steps.scales}.get(role)
        return self.opened(role, f"has no graph {shown(role)}") if found is None else found

    def opened(self, file: str, missing: str) -> onnxruntime.InferenceSession:
        """The session of a graph that not every engine has; opened once, by whichever thread needs it first."""
        with self.opening:
            if file not in self._opened:
                if file not in self.manifest.files:
                    raise EngineError(f"{self.folder}: {missing}")
                self._opened[file] = self._promised(file)
            return self._opened[file]


def check_names(session: onnxruntime.InferenceSession) -> None:
    """Read all that a graph says of its inputs and outputs: ONNX Runtime loads any bytes as names.

    Raises:
        UnicodeDecodeError: a name, a type or the name of a size is not UTF-8.
    """
    for each in (*session.get_inputs(), *session.get_outputs()):
        str((each.name, each.type, each.shape))


def run_once(path: Path, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a graph on disk."""
    found: NDArray[Any] = onnxruntime.InferenceSession(str(path), providers=[CPU]).run([output], feeds)[0]
    return found

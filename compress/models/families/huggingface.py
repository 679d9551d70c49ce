"""Any decoder-only folder of Hugging Face (*ForCausalLM, Chameleon, Emu3), exported by optimum's exporter."""

from __future__ import annotations

import contextlib
import io
import tempfile
from math import prod
from pathlib import Path
from typing import Any

from compress.core.settings import InputError
from compress.models import families
from compress.models.adopted import AdoptedModel, adopted, picture_config
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import GraphFamily
from compress.models.checkpoints.layouts import read_config
from compress.models.families.onnx import Onnx, graph_file, image_tokenizer
from export.runtime.errors import first_line

CONFIG = "config.json"
CAUSAL = "ForCausalLM"
MIXED = ("ChameleonForConditionalGeneration", "Emu3ForConditionalGeneration")  # decoders that draw what they read
TASK = "text-generation-with-past"
INSTALL = (
    "in an environment of its own: pip install 'optimum==2.1.*' 'optimum-onnx==0.1.*' 'transformers==4.57.*' (or "
    "export elsewhere with `optimum-cli export onnx --task text-generation-with-past` and give that folder)"
)


class Huggingface(GraphFamily):
    """Any decoder-only folder of Hugging Face."""

    def fits(self, path: Path) -> bool:
        """Whether a folder's config.json names a decoder that is not there as ONNX already."""
        if Onnx().fits(path) or not (path / CONFIG).is_file():
            return False
        return bool(architecture(read_config(path / CONFIG)))

    def load_graph(self, path: Path, source: families.Source, where: str) -> AdoptedModel:
        """The decoder in a folder, exported in fp32, its ids turned into image tokens as the recipe says.

        Raises:
            InputError: optimum is not installed, the decoder cannot be exported, or something is missing from the
                recipe.
        """
        config = picture_config(source.config, f"{where}.config")
        tokenizer = image_tokenizer(source, config.grid, where)
        room = tempfile.TemporaryDirectory(prefix="compress-")
        known = export(path, Path(room.name), where)
        file = graph_file(Path(room.name))
        model = adopted(file, path.name, self.name, tokenizer, config, f"{where}.config", known)
        model.rooms.append(room)  # weights above 2 GB are read from there when they are needed
        return model

    def size(self, path: Path) -> tuple[int, int, dict[str, Any]]:
        """Of the names and shapes."""
        checkpoint = Checkpoint.open(path)
        count = sum(prod(checkpoint.shape(each)) for each in checkpoint)
        return count, checkpoint.bytes, dict(checkpoint.config)


def architecture(config: dict[str, Any]) -> str:
    """The class of the decoder that a config names; empty if there is none."""
    names = config.get("architectures")
    if not isinstance(names, list):  # nothing that transformers wrote
        return ""
    return next((str(name) for name in names if str(name).endswith(CAUSAL) or name in MIXED), "")


def export(path: Path, folder: Path, where: str) -> tuple[int, ...]:
    """Write a decoder as ONNX into a folder; the ids of its image tokens, where its config says them.

    Raises:
        InputError: optimum is missing, or it or transformers cannot read or export the folder.
    """
    try:
        import transformers
        from optimum.exporters.onnx import onnx_export_from_model
        from optimum.exporters.onnx.model_configs import LlamaOnnxConfig
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        raise InputError(f"{where}: a folder of Hugging Face is exported by optimum ({error}); {INSTALL}") from error
    from export.graph.quiet import quiet

    name = architecture(read_config(path / CONFIG))
    kind = getattr(transformers, name, None)
    if kind is None:
        raise InputError(f"{path}: transformers {transformers.__version__} has no {name or 'class for it'}")
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model = kind.from_pretrained(path, local_files_only=True, dtype="float32").eval()
            text = model.config.get_text_config()
            mapping = getattr(getattr(model, "model", None), "vocabulary_mapping", None)
            known = image_ids(mapping)
            if name.startswith("Chameleon"):
                # transformers sets the logits of image tokens to the lowest number, for it only draws text.
                mapping.__dict__["image_tokens"] = []
            supported = TasksManager._SUPPORTED_MODEL_TYPE.get(model.config.model_type, {}).get("onnx", {})
            # What optimum has no entry for is fed as Llama is; whether that is right, the adoption's checks say.
            like_llama = LlamaOnnxConfig(config=text, task="text-generation", use_past=True, use_past_in_inputs=True)
            custom = None if TASK in supported else {"model": like_llama}
            onnx_export_from_model(model, output=folder, task=TASK, custom_onnx_configs=custom, do_validation=False)
    except Exception as error:
        raise InputError(f"{path}: optimum cannot export it ({type(error).__name__}: {first_line(error)})") from error
    return known


def image_ids(mapping: Any) -> tuple[int, ...]:
    """The id of each code of the image tokenizer, from the vocabulary mapping of transformers' mixed models."""
    found: dict[int, int] = getattr(mapping, "img2bpe", None) or {}
    return tuple(int(found[code]) for code in sorted(found)) if sorted(found) == list(range(len(found))) else ()

"""Other tools on the same shape, where they are installed: optimum-onnx and onnxruntime-genai, random weights.

A LlamaGen shape is a Llama config of transformers with the image vocabulary; each peer draws its next token at random
(or with its own sampler), so only decoding is compared. What a peer makes of it stays in a folder: optimum-onnx and
onnxruntime-genai's builder need different versions of transformers, so each may make its files in a venv of its own
(`--prepare`), and one process runs them all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from stacks import Stack

from compress.models.transformer.architecture import TransformerConfig
from export.graph.weights import bytes_read

NAMES = (
    "optimum fp32",
    "optimum dynamic int8",
    "genai int4 own loop",
    "genai int4 shared buffer",
    "genai int8 shared buffer",
)
HOW = "benchmarks/requirements.txt says how to install it"
BUILDER = ("accuracy_level=4", "block_size=128")  # int8 arithmetic, groups as ours
NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Missing(Exception):  # noqa: N818 - said in the output, not a failure
    """A peer that is not installed, or has no such model."""


def peer(name: str, config: TransformerConfig, room: Path, threads: int) -> Stack:
    """A peer's stack.

    Raises:
        Missing: it is not installed, or reads no such shape; the message says how to get it.
    """
    if not config.drawing.sequential:
        raise Missing("decodes token by token only")
    try:
        folder = llama(config, room / "llama")
        if name.startswith("optimum"):
            return optimum(name, config, folder, room, threads)
        return genai(name, config, folder, room, threads)
    except ImportError as error:
        raise Missing(f"{error}; {HOW}") from error


def llama(config: TransformerConfig, folder: Path) -> Path:
    """A checkpoint of transformers of this shape with random weights."""
    if not (folder / "config.json").exists():
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        layer = config.layers[0]
        made = LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=layer.ffn,
            num_hidden_layers=len(config.layers),
            num_attention_heads=layer.heads,
            num_key_value_heads=layer.kv_heads,
            max_position_embeddings=max(512, 2 * config.length),
            bos_token_id=0,
            eos_token_id=config.vocabulary - 1,
            tie_word_embeddings=False,
        )
        LlamaForCausalLM(made).save_pretrained(folder)
        words = {f"t{index}": index for index in range(config.vocabulary)}  # the builder asks for a tokenizer
        last = f"t{config.vocabulary - 1}"
        tokenizer = Tokenizer(WordLevel(words, unk_token="t0"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="t0", eos_token=last).save_pretrained(folder)
    return folder


def optimum(name: str, config: TransformerConfig, folder: Path, room: Path, threads: int) -> Stack:
    """optimum's export, plain or dynamically quantized, driven step by step with its growing cache."""
    made = room / "optimum"
    if not (made / "model.onnx").exists():
        from optimum.exporters.onnx import main_export

        main_export(str(folder), output=made, task="text-generation-with-past", do_validation=False)
    if "int8" in name:
        quantized = room / "optimum-int8"
        if not quantized.exists():
            from optimum.onnxruntime import ORTQuantizer
            from optimum.onnxruntime.configuration import AutoQuantizationConfig

            how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
            ORTQuantizer.from_pretrained(made, file_name="model.onnx").quantize(
                save_dir=quantized, quantization_config=how
            )
        path = quantized / "model_quantized.onnx"
    else:
        path = made / "model.onnx"
    return stack(name, path, growing(opened(path, threads), config), path.parent)


def genai(name: str, config: TransformerConfig, folder: Path, room: Path, threads: int) -> Stack:
    """What onnxruntime-genai's builder makes: with its own loop, or as a plain session with one shared buffer."""
    precision = "int8" if "int8" in name else "int4"
    made = room / f"genai-{precision}"
    if not (made / "model.onnx").exists():
        import onnxruntime_genai  # noqa: F401 - a missing one is said as such

        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(made)]
        settings = ["-p", precision, "-e", "cpu", "-c", str(room / "cache"), "--extra_options", *BUILDER]
        done = subprocess.run([*builder, *settings], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"its builder failed: {done.stderr.strip().splitlines()[-1]}")
    path = made / "model.onnx"
    if "own loop" in name:
        import onnxruntime_genai as og

        return stack(name, path, own_loop(og, made, config), made)
    return stack(name, path, shared(opened(path, threads), config), made)


def stack(name: str, path: Path, draw: Callable[[int], object], folder: Path) -> Stack:
    """A peer's row."""
    size = sum(each.stat().st_size for each in folder.glob(f"{path.name}*"))
    return Stack(name, draw, bytes_read(ir.load(path)), size / 2**20, peer=True)


def opened(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as ours: rows share the cores
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def growing(session: onnxruntime.InferenceSession, config: TransformerConfig) -> Callable[[int], object]:
    """Draws with a cache that goes in and comes out longer."""
    names = {each.name for each in session.get_inputs()}
    layer = config.layers[0]

    def draw(rows: int) -> object:
        tokens = np.zeros((rows, 1), dtype=np.int64)
        empty = np.zeros((rows, layer.kv_heads, 0, config.head_width), dtype=np.float32)
        past = {name: empty for name in names if name.startswith("past_key_values")}
        for position in range(config.length):
            feeds: dict[str, Any] = {"input_ids": tokens, **past}
            if "attention_mask" in names:
                feeds["attention_mask"] = np.ones((rows, position + 1), dtype=np.int64)
            if "position_ids" in names:
                feeds["position_ids"] = np.full((rows, 1), position, dtype=np.int64)
            found = dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))
            past = {name: found[name.replace("past_key_values", "present")] for name in past}
            tokens = np.random.randint(0, config.vocabulary, (rows, 1))
        return tokens

    return draw


def shared(session: onnxruntime.InferenceSession, config: TransformerConfig) -> Callable[[int], object]:
    """Draws with one buffer of full length that is past and present at once."""
    inputs = {each.name: each for each in session.get_inputs()}
    layer, length = config.layers[0], config.length + 1

    def draw(rows: int) -> object:
        binding = session.io_binding()
        for name, given in inputs.items():
            if name.startswith("past_key_values"):
                zeros = np.zeros((rows, layer.kv_heads, length, config.head_width), dtype=NUMBERS[given.type])
                buffer = onnxruntime.OrtValue.ortvalue_from_numpy(zeros)
                binding.bind_ortvalue_input(name, buffer)
                binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        binding.bind_output("logits")
        tokens = np.zeros((rows, 1), dtype=np.int64)
        for position in range(config.length):
            feeds = {
                "input_ids": tokens,
                "attention_mask": np.ones((rows, position + 1), dtype=np.int64),
                "position_ids": np.full((rows, 1), position, dtype=np.int64),
            }
            for name, value in feeds.items():
                if name in inputs:
                    binding.bind_cpu_input(name, value.astype(NUMBERS[inputs[name].type]))
            session.run_with_iobinding(binding)
            tokens = np.random.randint(0, config.vocabulary, (rows, 1))
        return tokens

    return draw


def own_loop(og: Any, folder: Path, config: TransformerConfig) -> Callable[[int], object]:
    """Draws with onnxruntime-genai's own generate loop, top-k 2000."""
    model = og.Model(str(folder))

    def draw(rows: int) -> object:
        params = og.GeneratorParams(model)
        length = config.length + 1
        params.set_search_options(
            do_sample=True,
            top_k=min(2000, config.vocabulary),
            max_length=length,
            min_length=length,
            batch_size=rows,
        )
        generator = og.Generator(model, params)
        generator.append_tokens(np.ones((rows, 1), dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return generator

    return draw

"""TiTok's generator ImageBert (bytedance/1d-tokenizer): `generator_titok_*`, masked, a BERT over a picture's tokens.

Weights do not hold the number of heads; the published models of width 768 have 16. The sampler is the checkpoint's own,
where its config.json holds one. UViTBert, which joins layers across the depth, is another model and not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import COUNT, FLAT, NUMBER, ROWS, Arrays, Golden, with_class
from compress.models.checkpoints.published import added, classes_of, heads_of, layers_of, nested, number, stated, truth
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

HEADS = {768: 16}
EPSILON = 1e-12
# Guidance and temperature by tokens, of L-32 and B-64; both take 8 steps: bytedance/1d-tokenizer,
# configs/infer/TiTok/titok_l32.yaml and titok_b64.yaml (commit 942a96f).
PUBLISHED = {32: (4.5, 9.5), 64: (3.0, 11.0)}
STEPS, POWER = 8, 3.0


class TitokBert(TorchFamily):
    """TiTok's generator ImageBert."""

    expected = (
        "model.embeddings.word_embeddings.weight",
        "model.encoder.layer.0.attention.self.query.weight",
        "model.lm_head.weight",
    )
    keys = (
        "num_attention_heads",
        "num_hidden_layers",
        "condition_num_classes",
        "guidance_scale",
        "guidance_decay",
        "guidance_scale_pow",
        "num_steps",
        "randomize_temperature",
        "softmax_temperature_annealing",
        "model",
    )
    tokenizer_advice = "give tokenizer_titok_*, which the generator was trained with"
    golden_arrays: ClassVar = {"tokens": FLAT, "labels": ROWS, "greedy_cfg": NUMBER, "greedy_steps": COUNT}

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the heads that config.json or the user states."""
        rows, width = checkpoint.shape("model.embeddings.word_embeddings.weight", 2)
        vocabulary = checkpoint.shape("model.lm_head.weight", 2)[0]
        generator = generator_of(checkpoint)
        heads = heads_of(generator, "num_attention_heads", width, HEADS)
        ffn = checkpoint.shape("model.encoder.layer.0.intermediate.dense.weight", 2)[0]
        return TransformerConfig(
            vocabulary=vocabulary,
            classes=classes_of(
                generator, "condition_num_classes", rows - vocabulary - 2
            ),  # the mask token and no class have rows too
            grid=(1, checkpoint.shape("model.embeddings.position_embeddings.weight", 2)[0] - 1),
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(generator, "num_hidden_layers", "model.encoder.layer"),
            norm="layernorm",
            norm_epsilon=EPSILON,
            activation="gelu",
            positions="learned",
            bias=True,
            order="masked",
            final_norm="none",
            head_bias=True,
            class_token=True,
            post_norm=True,
            embedding_norm=True,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; every token is of the first of two types, whose vector goes into the positions."""
        theirs = "model.embeddings"
        yield "embedding.weight", checkpoint[f"{theirs}.word_embeddings.weight"]
        types = checkpoint[f"{theirs}.token_type_embeddings.weight"]
        positions = checkpoint[f"{theirs}.position_embeddings.weight"]
        yield "position.weight", added(positions, types[:1].expand(len(positions), -1))
        pairs = [(f"{theirs}.LayerNorm", "embedding_norm"), ("model.lm_head", "head")]
        for index in range(len(config.layers)):
            pairs += [
                (f"model.encoder.layer.{index}.{their}", f"blocks.{index}.{our}")
                for their, our in (
                    ("attention.self.query", "attention.query"),
                    ("attention.self.key", "attention.key"),
                    ("attention.self.value", "attention.value"),
                    ("attention.output.dense", "attention.output"),
                    ("attention.output.LayerNorm", "attention_norm"),
                    ("intermediate.dense", "ffn.up"),
                    ("output.dense", "ffn.down"),
                    ("output.LayerNorm", "ffn_norm"),
                )
            ]
        for their, our in pairs:
            for kind in ("weight", "bias"):
                yield f"{our}.{kind}", checkpoint[f"{their}.{kind}"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """As the authors draw: tokens and positions under the same falling noise.

        Their guidance s, given + s (given - null), is a scale of 1 + s; with ``power-cosine`` it is the scale itself.

        Raises:
            InputError: config.json asks for a guidance or an annealing that is not known.
        """
        generator = generator_of(checkpoint)
        decay = generator.config.get("guidance_decay", "linear")
        kinds = {
            "linear": "ramp",
            True: "ramp",
            "constant": "constant",
            False: "constant",
            "power-cosine": "power-cosine",
        }
        annealed = truth(generator, "softmax_temperature_annealing", False)
        if not isinstance(decay, (str, bool)) or decay not in kinds or annealed:
            raise InputError(
                f"{checkpoint.path}: config: guidance_decay {shown(decay)} with softmax_temperature_annealing "
                f"{annealed}: known are linear, constant and power-cosine, without"
            )
        tokens = checkpoint.shape("model.embeddings.position_embeddings.weight")[0] - 1
        usual_scale, usual_temperature = PUBLISHED.get(tokens, PUBLISHED[32])
        scale = number(generator, "guidance_scale", usual_scale)
        return Sampler(
            cfg_scale=scale if decay == "power-cosine" else 1 + scale,
            steps=stated(generator, "num_steps") or STEPS,
            schedule="arccos",
            reveal="logit",
            choice_temperature=number(generator, "randomize_temperature", usual_temperature),
        ).changed(guidance=kinds[decay], guidance_power=number(generator, "guidance_scale_pow", POWER))

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """The guidance s grows over the steps; the likeliest tokens stay where their logits are highest."""
        sampler = Sampler(
            cfg_scale=1 + float(arrays["greedy_cfg"]),
            guidance="ramp",
            steps=int(arrays["greedy_steps"]),
            schedule="arccos",
            reveal="logit",
            choice_temperature=0,
        )
        return Golden(with_class(arrays["labels"], arrays["tokens"], shape), labels=arrays["labels"], sampler=sampler)


def generator_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with what config.json says of the generator, in `model.generator` or at its top, on top."""
    return nested(checkpoint, "model", "generator")

"""The work that is timed: the largest step of a shape, what fp32 says of it, and the ways to run it.

A causal model decodes one token in the middle of a picture, a masked one predicts all tokens, a next-scale one the last
grid. Weights are random: what a variant's logits differ from fp32 by shows that it computes the right thing, not what a
trained model would lose.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import gpu_limits
import gpu_steps
import torch
from architectures import architecture
from gpu_limits import Cost
from torch import Tensor, nn

from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.blocks import KeyValue
from compress.models.transformer.model import TokenTransformer

TINY = {"tiny-scales": "var-d16", "tiny-masked": "maskgit"}  # for the benchmark's own test
COMPARED = 8  # rows whose logits are compared
GUIDANCE = 2.0
SPREAD = 2.0  # standard deviation of random logits: about as sharp as a trained model's
GATES = 0.5  # standard deviation of shifts, scales and gates
WARM = 3  # calls before a capture
MOST_KL = {"bf16": 0.02, "fp8": 0.2}  # what rounding explains; a step that computes something else is far above

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to run a step: `run` gives its logits, `checked` those (n, P, O) of the positions that are compared.

    `picture` draws whole pictures and gives their tokens (B, T) and the last step's logits (B, O).
    """

    name: str
    kind: str  # of its products
    run: Run
    cost: Cost
    checked: Run | None = None
    picture: Callable[[], tuple[Tensor, Tensor]] | None = None
    prepare_s: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Way:
    """How a variant is built."""

    name: str
    kind: str = "bf16"
    static: bool = True
    packed: bool = False
    compiled: bool = False
    alone: bool = False


EAGER = "eager"
PLAIN = (
    Way(EAGER, static=False),
    Way("CUDA graph"),
    Way("CUDA graph, packed", packed=True),
    Way("CUDA graph, packed, FP8 products", "fp8", packed=True),
    Way("products alone, packed", packed=True, alone=True),
    Way("products alone, packed, FP8", "fp8", packed=True, alone=True),
)
COMPILED = (
    Way("compiled blocks, CUDA graph, packed", packed=True, compiled=True),
    Way("compiled blocks, CUDA graph, packed, FP8 products", "fp8", packed=True, compiled=True),
)


def config_of(name: str) -> TransformerConfig:
    """The config of a shape."""
    if name not in TINY:
        return architecture(name)
    config = architecture(TINY[name])
    small = replace(config, layers=(LayerConfig(4, 4, 128),) * 2, width=64, head_width=16)
    if config.drawing.scaled:
        return replace(small, vocabulary=64, grid=(4, 4), scales=(1, 2, 4), latent_width=16)
    return replace(small, vocabulary=64, grid=(4, 4), outputs=65)


class Work:
    """The inputs of a shape's largest step, the fp32 model and the bf16 one, and fp32's logits."""

    def __init__(self, name: str, device: torch.device, rows: int) -> None:
        self.name, self.config, self.device = name, config_of(name), device
        config, shape = self.config, self.config.shape
        torch.manual_seed(0)
        with torch.device(device):
            self.exact = TokenTransformer(config).eval().requires_grad_(False)
        self.exact.to(device)
        for name_, module in self.exact.named_modules():
            if isinstance(module, nn.Embedding) or name_ == "head":
                module.weight.normal_(std=SPREAD * config.width**-0.5)
            elif name_.endswith("modulation.linear"):
                module.bias.normal_(std=GATES)  # by default gates are so small that nothing of a block is seen
        count = config.length - 1 if config.drawing.sequential else config.length
        tokens = torch.randint(0, config.vocabulary, (rows, count), device=device)
        if config.drawing.masks:
            tokens[torch.rand(tokens.shape, device=device) < 0.5] = config.mask_token
        self.labels = torch.randint(0, shape.classes, (rows,), device=device)
        self.inputs = torch.cat([self.labels[:, None] + shape.first_class, tokens], dim=1)
        # Positions that are cached, and those of the step.
        self.before = config.length // 2 if config.drawing.sequential else 0
        self.count = 1 if config.drawing.sequential else config.length
        if config.drawing.scaled:
            self.count = config.scales[-1] ** 2
            self.before = config.length - self.count
            features = self.exact.scales.features(tokens)
            first = features.new_zeros(rows, 1, config.latent_width)
            self.latents = torch.cat([first, features], dim=1).bfloat16()
        logits = self.exact(self.inputs[:COMPARED])
        self.reference = logits[:, : self.before + 1] if config.drawing.sequential else logits[:, -self.count :]
        self.model = copy.deepcopy(self.exact).to(torch.bfloat16)

    def variant(self, way: Way, rows: int) -> Variant:
        """A way built for so many rows."""
        start = time.perf_counter()
        cost = gpu_limits.cost(self.model, way.kind, rows, self.before, self.count, alone=way.alone)
        if not way.static:
            run, checked = self.as_it_is(rows)
            return Variant(way.name, way.kind, run, cost, checked, prepare_s=time.perf_counter() - start)
        by_rows = way.kind != "fp8" or gpu_steps.fp8_by_rows(self.device, rows)
        cached = 1 if way.alone else rows
        model = gpu_steps.rewritten(self.model, cached, way.packed, way.kind == "fp8", by_rows)
        note = "" if by_rows else "one scale a tensor: the row-wise product does not run"
        if way.alone:
            run = captured(gpu_steps.products_alone(model, rows, self.count), self.device)
            return Variant(way.name, way.kind, run, cost, note=note)
        if way.compiled:
            torch._dynamo.reset()
            backend = "inductor" if self.device.type == "cuda" else "eager"
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False, backend=backend)
        picture = None
        if self.config.drawing.sequential:
            run, checked, picture = self.causal(model, rows)
        else:
            run, checked = self.parallel(model, rows)
        return Variant(way.name, way.kind, run, cost, checked, picture, time.perf_counter() - start, note)

    def as_it_is(self, rows: int) -> tuple[Run, Run]:
        """The product's own step on its own cache, which grows."""
        model, inputs, labels = self.model, self.inputs[:rows], self.labels[:rows]
        if self.config.drawing.masks:
            return lambda: model(inputs), lambda: model(inputs[:COMPARED])
        parts = [each.to(self.device, torch.bfloat16) for pair in model.empty_cache(rows) for each in pair]
        past = [KeyValue(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        if self.config.drawing.scaled:
            latents = self.latents[:rows]
            start = 0
            for side in self.config.scales[:-1]:
                _, past = model.step(latents[:, start : start + side**2], past, labels)
                start += side**2
            last = latents[:, start:]
            return lambda: model.step(last, past, labels)[0], lambda: model.step(last, past, labels)[0][:COMPARED]
        early, past = model.step(inputs[:, : self.before], past)
        token = inputs[:, self.before : self.before + 1]

        def run() -> Tensor:
            return model.step(token, past)[0]

        return run, lambda: torch.cat([early, run()], dim=1)[:COMPARED]

    def parallel(self, model: TokenTransformer, rows: int) -> tuple[Run, Run]:
        """A masked model's forward, or the last scale behind a cache that holds the others."""
        if self.config.drawing.masks:
            inputs = self.inputs[:rows]
            run = captured(lambda: model(inputs), self.device)
            return run, lambda: run()[:COMPARED]
        latents, labels, before = self.latents[:rows], self.labels[:rows], self.before
        everything = torch.arange(self.config.length, device=self.device)
        gpu_steps.place(model, everything[:before], before)
        x, around = model.prepare_scales(latents[:, :before], labels, 0, model.sees[:before, :before])
        with torch.compiler.set_stance("force_eager"):  # only the step that is timed is worth compiling
            list(model.layer_outputs(x, around))
        gpu_steps.place(model, everything[before:], self.config.length)
        past = gpu_steps.empty_past(self.config, before, latents)
        last = latents[:, before:]
        run = captured(lambda: model.step(last, past, labels)[0], self.device)
        return run, lambda: run()[:COMPARED]

    def causal(self, model: TokenTransformer, rows: int) -> tuple[Run, Run, Callable[[], tuple[Tensor, Tensor]]]:
        """A decode step, what it says of every position up to the one that is timed, and whole pictures."""
        inputs, length = self.inputs[:rows], self.config.length
        token, position = inputs[:, :1].clone(), torch.zeros(1, dtype=torch.int64, device=self.device)
        gpu_steps.place(model, position, self.config.reach)
        run = captured(lambda: gpu_steps.causal_step(model, token, position), self.device)

        def checked() -> Tensor:
            said = []
            for at in range(self.before + 1):
                token.copy_(inputs[:, at : at + 1])
                position.fill_(at)
                said.append(run()[:COMPARED].clone())
            return torch.cat(said, dim=1)

        guided = rows > 1
        drawn = torch.zeros(rows, length, dtype=torch.int64, device=self.device)

        def advance() -> Tensor:
            logits = gpu_steps.causal_step(model, token, position)[:, -1]
            wide = logits.float()
            if guided:
                conditional, unconditional = wide.chunk(2)
                wide = unconditional + GUIDANCE * (conditional - unconditional)
            noise = torch.empty_like(wide).exponential_().log_()  # Gumbel-max: the argmax is a sample
            chosen = (wide - noise).argmax(dim=-1, keepdim=True)
            token.copy_(chosen.repeat(2, 1) if guided else chosen)
            drawn.index_copy_(1, position, token)
            position.add_(1)
            return logits

        position.zero_()
        drawing = captured(advance, self.device)
        position.fill_(self.before)

        def picture() -> tuple[Tensor, Tensor]:
            token.copy_(inputs[:, :1])
            position.zero_()
            for _ in range(length):
                last = drawing()
            position.fill_(self.before)  # the step that is timed must not write behind the cache
            return drawn, last

        return run, checked, picture

    def difference(self, variant: Variant, rows: int) -> tuple[float, float]:
        """KL from fp32 in nats and share of equal argmax, over the positions that are compared."""
        assert variant.checked is not None
        return differing(self.reference[:rows], variant.checked())

    def drawn_difference(self, variant: Variant) -> tuple[float, float]:
        """The same of the last step of whole pictures."""
        assert variant.picture is not None
        drawn, last = variant.picture()
        assert bool(((drawn >= 0) & (drawn < self.config.vocabulary)).all())
        inputs = torch.cat([self.inputs[: len(drawn), :1], drawn[:, :-1]], dim=1)[:COMPARED]
        return differing(self.exact(inputs)[:, -1:], last[:COMPARED, None])


def captured(run: Run, device: torch.device) -> Run:
    """A call as a CUDA graph whose replay gives the output at its address; on a CPU the call itself.

    A graph knows addresses only, so a replay keeps the call, and with it the weights and inputs that are read there.
    """
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run()
    made.fill_(float("nan"))  # so that an output that a replay does not write is seen

    def replay(kept: Run = run) -> Tensor:
        graph.replay()
        return made

    return replay


def differing(reference: Tensor, logits: Tensor) -> tuple[float, float]:
    """KL(reference || logits) in nats, and share of equal argmax, over all positions (n, P, O)."""
    assert reference.shape == logits.shape, (reference.shape, logits.shape)
    wide, other = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (wide.exp() * (wide - other)).sum(-1).mean()
    return float(kl), float((reference.argmax(-1) == logits.argmax(-1)).float().mean())

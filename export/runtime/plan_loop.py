"""Drawing with plans on a device: tokens go there and come back, logits and caches stay.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, Z latent width, P x C
features of a text, n positions of a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .choosing import Choice, Chosen
from .drawing import LogitsDrawer, opening
from .feeds import text_feeds
from .noise import Noise, NoiseOfEach
from .plan import Call, parts_of
from .signature import LOGITS, POSITION
from .torch_choosing import DeviceNoise, choose

if TYPE_CHECKING:
    from .tensorrt import TensorRTPlans

TOKENS, LATENTS = "tokens", "latents"
PAST, PRESENT = "past.", "present."


class PlanLoop:
    """Decoding for any number of rows, in parts of at most as many as the plan takes: a `drawing.Runner`.

    All parts share buffers of all rows, of which each has its own; past and present lie at one address. It is used
    under the lock of its plans, by one drawing at a time.
    """

    def __init__(self, plans: TensorRTPlans, rows: int) -> None:
        self.plans, self.rows, self.shape = plans, rows, plans.manifest.shape
        self.torch, self.decode = plans.gpu.torch, plans.decode
        self.parts = list(parts_of(rows, *self.decode.rows(TOKENS)))
        self.total = self.parts[-1].stop
        self.step_size = self.shape.length if self.shape.drawing.masks else 1
        self.buffers = {name: self.decode.room(name, self.total) for name in self.decode.inputs if name != TOKENS}
        self.read_by: dict[int, Any] = {}  # buffers of tokens (R, S) or latents (R, S, Z), by S
        self.logits_of: dict[int, Any] = {}
        # A step of a next-scale model never has the size of the one before it.
        self.steps = [] if self.shape.drawing.scaled else self.made(repeated=True)
        if self.steps:
            self.bind(self.steps, self.step_size)
        self.others: list[Call] = []
        self.others_size = 0
        self.position = 0
        self.kept = False
        self.first = self.calls_before()

    def made(self, *, repeated: bool) -> list[Call]:
        """A call of the decode plan for each part."""
        return [Call(self.decode, self.plans.stream, repeated=repeated) for _ in self.parts]

    def calls_before(self) -> list[Call]:
        """The calls of what is computed once before the steps, which write what these read."""
        plan = self.plans.begin
        if plan is None:
            return []
        for name in plan.inputs:
            self.buffers.setdefault(name, plan.room(name, self.total))
        calls = [Call(plan, self.plans.stream) for _ in self.parts]
        for call, part in zip(calls, self.parts, strict=True):
            call.bind({name: self.buffers[name][part] for name in (*plan.inputs, *plan.outputs)})
        return calls

    def bind(self, calls: list[Call], size: int) -> None:
        """Bind calls of so many positions to the buffers."""
        if size not in self.read_by:
            self.read_by[size] = self.decode.room(TOKENS, self.total, size)
            self.logits_of[size] = self.decode.room(LOGITS, self.total, size)
        taken = {name: self.buffers[name] for name in self.decode.inputs if name != TOKENS}
        whole = {**taken, TOKENS: self.read_by[size], LOGITS: self.logits_of[size]}
        for call, part in zip(calls, self.parts, strict=True):
            mine = {name: tensor[part] if tensor.dim() else tensor for name, tensor in whole.items()}
            present = {PRESENT + name[len(PAST) :]: tensor for name, tensor in mine.items() if name.startswith(PAST)}
            call.bind({**mine, **present})

    def calls_of(self, size: int) -> list[Call]:
        """The calls of so many positions."""
        if self.steps and size == self.step_size:
            return self.steps
        if not self.others:
            self.others = self.made(repeated=False)
        if size != self.others_size:
            self.bind(self.others, size)
            self.others_size = size
        return self.others

    def takes(self, size: int) -> bool:
        """Whether one call can read so many positions."""
        return all(self.decode.profile_of({TOKENS: (part.stop - part.start, size)}) is not None for part in self.parts)

    # What stays on the device

    def know(self, labels: NDArray[np.int64], features: NDArray[np.float32] | None) -> None:
        """Take the classes (R,) and features of a text (R, P, C), and compute what depends on them alone."""
        self.position = 0
        given = {"labels": labels, **({} if features is None else text_feeds(features))}
        for name in given.keys() & self.buffers.keys():
            self.write(self.buffers[name], given[name])
        for call in self.first:
            call.run()

    def write(self, buffer: Any, array: NDArray[Any]) -> None:
        """Write an array (R, ...) into the rows of a buffer."""
        buffer[: self.rows].copy_(self.torch.from_numpy(np.ascontiguousarray(array)))

    def opened(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None, prompt: NDArray[np.int64] | None
    ) -> Any:
        """Logits (R, S, O) of what is drawn first, as `drawing.Runner.begin` gives them; None of a masked model."""
        self.know(labels, features)
        if self.shape.drawing.masks:
            return None
        if self.shape.drawing.scaled:
            return self.advanced(self.torch.zeros((self.rows, 1, self.shape.latent_width)))
        return self.read(opening(self.shape, labels, prompt))

    def read(self, tokens: NDArray[np.int64]) -> Any:
        """Logits (R, 1, O) behind tokens (R, S), in one call where the plan takes so many at once."""
        if self.takes(tokens.shape[1]):
            return self.advanced(self.torch.from_numpy(tokens))[:, -1:]
        for column in np.split(tokens, tokens.shape[1], axis=1):
            last = self.advanced(self.torch.from_numpy(column))
        return last

    def stepped(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> Any:
        """Logits of what comes next, as `drawing.Runner.step` gives them; the next call overwrites them."""
        given = self.torch.from_numpy(np.ascontiguousarray(tokens))
        if self.shape.drawing.scaled:
            end = self.position + self.shape.side_at(self.position) ** 2
            return self.advanced(self.plans.latents(given)[:, self.position - 1 : end - 1])
        logits = self.advanced(given)
        return logits if positions is None else logits[:, self.torch.from_numpy(positions).to(logits.device)]

    def advanced(self, given: Any) -> Any:
        """Logits (R, S, O) of one call that reads tokens (R, S) or latents (R, S, Z) at the position."""
        size = given.shape[1]
        calls = self.calls_of(size)
        self.read_by[size][: self.rows].copy_(given)
        if POSITION in self.buffers:
            self.buffers[POSITION].fill_(self.position)
        for call in calls:
            call.run()
        self.position += size
        if not self.kept:
            self.decode.save_kernels()
            self.kept = True
        return self.logits_of[size][: self.rows]

    # What a runner gives to the host

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits of what is drawn first, as `drawing.Runner` says."""
        logits = self.opened(labels, features, prompt)
        return None if logits is None else on_host(logits)

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of what comes next, as `drawing.Runner` says."""
        return on_host(self.stepped(tokens, positions))

    def drawer(self) -> DeviceDrawer:
        """What draws with this loop."""
        return DeviceDrawer(self)


class DeviceDrawer(LogitsDrawer):
    """A drawer that chooses on the device: of a step only tokens come to the host."""

    def __init__(self, loop: PlanLoop) -> None:
        super().__init__(loop, loop.shape)
        self.loop = loop

    def noise(self, made: Noise | NoiseOfEach) -> DeviceNoise:
        """The same noise, made on the device."""
        return DeviceNoise(made, self.loop.torch, self.loop.plans.gpu.device)

    def first(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None, prompt: NDArray[np.int64] | None
    ) -> Any:
        """Logits on the device."""
        return self.loop.opened(labels, features, prompt)

    def following(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None) -> Any:
        """Logits on the device."""
        return self.loop.stepped(tokens, positions)

    def chosen(self, logits: Any, choice: Choice) -> Chosen:
        """What is chosen from logits (R, n, O) there."""
        return choose(logits, choice, self.loop.torch, with_sureness=self.with_sureness)


def on_host(logits: Any) -> NDArray[np.float32]:
    """Logits as an array of their own."""
    found: NDArray[np.float32] = logits.to("cpu", copy=True).numpy()
    return found


def in_parts(tensor: Any, least: int, most: int) -> Iterator[tuple[Any, int]]:
    """Rows of a tensor in parts that a plan takes, the last one filled up, and how many of a part are real."""
    for part in parts_of(len(tensor), least, most):
        rows = tensor[part]
        missing = part.stop - part.start - len(rows)
        filled = rows if not missing else rows.new_zeros((missing + len(rows), *rows.shape[1:]))
        if missing:
            filled[: len(rows)] = rows
        yield filled.contiguous(), len(rows)

"""Modules on the meta device, filled with tensors one at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_checkpoints import write
from torch import nn

from compress.core.settings import InputError
from compress.models.checkpoints.filling import fill


class Net(nn.Module):
    """A tied head, a persistent integer buffer, and a buffer that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("order", torch.arange(4))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


NET = {
    "embedding.weight": torch.arange(12.0).reshape(4, 3).half(),
    "norm.weight": torch.ones(3).bfloat16(),
    "norm.bias": torch.zeros(3).double(),
    "order": torch.tensor([3, 2, 1, 0]),
}


def filled(state: dict) -> Net:
    """The net on meta, filled from a state dict."""
    with torch.device("meta"):
        net = Net()
    fill(net, state.items(), Path("a.pt"))
    return net


def refusal(state: dict, pairs: list | None = None) -> str:
    """What `fill` says."""
    with torch.device("meta"):
        net = Net()
    with pytest.raises(InputError) as caught:
        fill(net, pairs or state.items(), Path("a.pt"))
    return str(caught.value)


def test_a_module_on_meta_is_filled_and_computes_in_its_own_format():
    net = filled(NET)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.device.type == "cpu" and p.requires_grad for p in net.parameters())
    assert net.order.tolist() == [3, 2, 1, 0]
    assert net.table.device.type == "meta", "what no checkpoint holds is the caller's"
    assert net.head.weight is net.embedding.weight, "ties stay"
    assert torch.equal(net.head.weight, NET["embedding.weight"].float())
    assert net.head(net.norm(net.embedding(torch.tensor([1])))).shape == (1, 4)
    net.load_state_dict(net.state_dict())


def test_a_tied_tensor_may_come_under_each_of_its_names_if_it_is_the_same():
    weight = NET["embedding.weight"]
    net = filled({**NET, "head.weight": weight.float()})
    assert net.head.weight is net.embedding.weight
    first = {"head.weight": weight, **NET}
    del first["embedding.weight"]
    assert torch.equal(filled(first).embedding.weight, weight.float())
    assert refusal({**NET, "head.weight": weight + 1}) == (
        "a.pt: tensor 'head.weight' differs from 'embedding.weight'; the model uses one for both"
    )


def test_slices_of_one_tensor_become_parameters_of_their_own():
    whole = torch.arange(9.0)
    net = filled({**NET, "norm.weight": whole[:3], "norm.bias": whole[3:6]})
    assert net.norm.bias.tolist() == [3, 4, 5]
    assert [p.untyped_storage().nbytes() for p in net.norm.parameters()] == [12, 12]
    both = torch.ones(3)
    net = filled({**NET, "norm.weight": both, "norm.bias": both})
    assert net.norm.weight.data_ptr() == both.data_ptr(), "not copied without need"
    assert net.norm.bias.data_ptr() != both.data_ptr()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm.bias": torch.ones(4)}, "tensor 'norm.bias' is (4,); its config says (3,)"),
        ({"order": torch.ones(4)}, "tensor 'order' is float32; its config says int64"),
        ({"norm.bias": torch.ones(3).int()}, "tensor 'norm.bias' is int32; its config says float32"),
        ({"lora.a": torch.ones(4)}, "tensor 'lora.a' is not part of the model its config describes"),
        (
            {"norm.bias": torch.tensor([1, float("nan"), float("-inf")]).half()},
            "tensor 'norm.bias' holds 2 NaN or Inf values; the checkpoint is unusable",
        ),
        ({"norm.bias": torch.full((3,), 1e60, dtype=torch.float64)}, "tensor 'norm.bias' holds 3 NaN or Inf values"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    assert refusal({**NET, **change}).startswith(f"a.pt: {said}")


def test_a_misspelled_a_missing_and_a_repeated_tensor_are_named():
    short = {name: tensor for name, tensor in NET.items() if name != "norm.bias"}
    assert refusal(short) == ("a.pt: tensor 'norm.bias' is missing; the file ends early or is of another model")
    assert refusal({**short, "norm.bais": NET["norm.bias"]}) == (
        "a.pt: tensor 'norm.bais' is not part of the model its config describes; 'norm.bias' would be"
    )
    assert refusal({}, [*NET.items(), ("order", NET["order"])]) == "a.pt: tensor 'order' comes twice"


PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.filling import fill

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

with torch.device("meta"):
    net = nn.Sequential(*(nn.Linear(1000, 500) for _ in range(20)))
torch.ones(3).half().float().aminmax()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = status("VmRSS")
path = Path(sys.argv[1])
checkpoint = Checkpoint.open(path)
fill(net, checkpoint.items(), path)
print((status("VmHWM") - before) / sum(p.numel() * 4 for p in net.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_filling_takes_at_most_1_3_copies_of_the_weights_at_its_peak(tmp_path, suffix, dtype):
    """All resident memory counts, file pages too: 40 MB of fp32 weights in 20 layers."""
    state = {}
    for index in range(20):
        state[f"{index}.weight"] = torch.rand(500, 1000).to(dtype)
        state[f"{index}.bias"] = torch.rand(500).to(dtype)
    path = write(tmp_path / f"a{suffix}", state)
    peaks = []
    while len(peaks) < 4 and not (peaks and min(peaks) <= 1.3):  # a busy machine maps more pages ahead at times
        done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert min(peaks) <= 1.3, peaks

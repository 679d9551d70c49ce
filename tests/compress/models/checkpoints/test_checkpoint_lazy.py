"""Published checkpoints: every layout and wrapping is found, tensors are read alone, filling keeps to its memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.containers import PICKLES
from compress.models.checkpoints.filling import fill

STATE = {
    "layers.0.weight": torch.arange(6.0).reshape(2, 3),
    "layers.1.weight": torch.arange(6.0).reshape(2, 3).half() + 10,
    "norm.weight": torch.arange(3).int(),
}
OTHER = {"other.weight": torch.ones(1)}
SUFFIXES = [".safetensors", *PICKLES]


def write(path: Path, state: dict = STATE) -> Path:
    """Save a state dict in the format of the suffix."""
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def check(checkpoint: Checkpoint, state: dict = STATE) -> None:
    """The checkpoint holds exactly these tensors."""
    assert set(checkpoint) == set(state)
    assert len(checkpoint) == len(state)
    for name, tensor in state.items():
        assert name in checkpoint
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype == checkpoint[name].dtype
        assert torch.equal(checkpoint[name], tensor)


def complaint(path: Path, **options: str) -> str:
    """What opening says, without the path of the scratch folder."""
    with pytest.raises(InputError) as caught:
        Checkpoint.open(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bytes_read() -> int:
    """How many bytes this process has asked files for."""
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line).split()[1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_weights_file_is_read_with_the_config_beside_it(tmp_path, suffix):
    path = write(tmp_path / f"model{suffix}")
    assert Checkpoint.open(path).config == {}
    (tmp_path / "config.json").write_text('{"heads": 4, "width": 8}')
    checkpoint = Checkpoint.open(path, {"heads": 2, "grid": [4, 4]})
    check(checkpoint)
    assert checkpoint.config == {"heads": 2, "width": 8, "grid": [4, 4]}
    assert (checkpoint.path, checkpoint.weights) == (path, (path,))
    assert checkpoint.bytes == 6 * 4 + 6 * 2 + 3 * 4
    assert (checkpoint.numbers("layers"), checkpoint.numbers("blocks")) == (2, 0)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "c2i_B_256.pt"]
    + [f"checkpoint{suffix}" for suffix in SUFFIXES],
)
def test_the_weights_of_a_folder_are_found_by_their_name_or_because_they_are_alone(tmp_path, name):
    path = write(tmp_path / name)
    (tmp_path / "config.json").write_text('{"heads": 4}')
    (tmp_path / "README.md").write_text("")
    checkpoint = Checkpoint.open(tmp_path)
    check(checkpoint)
    assert (checkpoint.path, checkpoint.weights, checkpoint.config) == (tmp_path, (path,), {"heads": 4})


def test_hugging_face_names_come_before_others(tmp_path):
    write(tmp_path / "a.pt", OTHER)
    write(tmp_path / "checkpoint.pt", OTHER)
    write(tmp_path / "pytorch_model.bin", OTHER)
    write(tmp_path / "model.safetensors")
    check(Checkpoint.open(tmp_path))


def test_a_folder_that_leaves_a_choice_is_refused_with_its_files(tmp_path):
    write(tmp_path / "b.pt")
    write(tmp_path / "a.safetensors")
    assert complaint(tmp_path) == f"{tmp_path}: holds a.safetensors, b.pt; give the path of the one to read"


def test_a_folder_without_weights_and_a_missing_path_are_refused(tmp_path):
    assert complaint(tmp_path) == (
        f"{tmp_path}: holds no weights; looked for files that end in .safetensors, .pt, .pth, .bin, .ckpt"
    )
    assert complaint(tmp_path / "none.pt") == f"{tmp_path / 'none.pt'}: there is no such checkpoint file"


@pytest.mark.parametrize(("content", "said"), [("{", ":1:2: not valid JSON"), ("[1]", ": holds list, not a mapping")])
def test_a_damaged_config_is_refused(tmp_path, content, said):
    write(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert complaint(tmp_path).startswith(f"{tmp_path / 'config.json'}{said}")


def shard(folder: Path, suffix: str) -> tuple[Path, list[Path]]:
    """A checkpoint in two files and its index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002{suffix}" for i in (1, 2)]
    parts = [dict(list(STATE.items())[:1]), dict(list(STATE.items())[1:])]
    files = [write(folder / name, part) for name, part in zip(names, parts, strict=True)]
    index = folder / f"{stem}{suffix}.index.json"
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places}))
    return index, files


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_sharded_checkpoint_is_read_through_its_index(tmp_path, suffix):
    _, files = shard(tmp_path, suffix)
    checkpoint = Checkpoint.open(tmp_path)
    check(checkpoint)
    assert checkpoint.weights == tuple(files)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_missing_shard_is_named(tmp_path, suffix):
    index, files = shard(tmp_path, suffix)
    files[1].unlink()
    assert complaint(tmp_path) == f"{files[1]}: this shard is missing; {index.name} lists it"


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    index, files = shard(tmp_path, ".safetensors")
    write(files[1], {"norm.weight": STATE["norm.weight"]})
    assert complaint(tmp_path) == f"{files[1]}: tensor 'layers.1.weight' is missing; {index.name} says it is here"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "'weight_map' is missing; it says which file holds each tensor"),
        (
            {"weight_map": {"a": "../a.safetensors"}},
            "'a' is said to be in '../a.safetensors', which is no file beside it",
        ),
        ({"weight_map": {"a": 1}}, "'a' is said to be in 1, which is no file beside it"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path, content, said):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps(content))
    assert complaint(tmp_path) == f"{index}: {said}"


def test_a_sharded_checkpoint_has_one_set_of_weights(tmp_path):
    index, _ = shard(tmp_path, ".bin")
    assert complaint(tmp_path, weights="ema") == (
        f"{index}: holds no 'ema'; a sharded checkpoint holds one set of weights"
    )


@pytest.mark.parametrize(
    "content",
    [
        {
            "model": STATE,
            "ema": OTHER,
            "optimizer": {"state": {0: OTHER}},
            "steps": 7,
            "args": argparse.Namespace(lr=1),
        },
        {"module": STATE, "state_dict": OTHER},
        {"state_dict": OrderedDict(STATE), "epoch": 3},
        {"iter": 1, "global_epoch": 2, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"epoch": 1, "trainer": {"var_wo_ddp": STATE, "vae_local": OTHER, "var_opt": {"state": {}}, "config": {}}},
        {"trainer": {"vae_local": STATE}},
        {"ema": STATE},
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}},
        {f"_orig_mod.{name}": nn.Parameter(tensor, requires_grad=False) for name, tensor in STATE.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_training_files_are_unwrapped(tmp_path, content, zipped):
    path = tmp_path / "last.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check(Checkpoint.open(path))


def test_another_set_of_weights_is_taken_if_it_is_asked_for(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"model": OTHER, "ema": STATE}, path)
    check(Checkpoint.open(path, weights="ema"))
    check(Checkpoint.open(path, weights="model"), OTHER)
    assert complaint(path, weights="vae_local") == f"{path}: holds no 'vae_local'; it holds model, ema"
    torch.save({"trainer": {"var_wo_ddp": OTHER, "vae_local": STATE}}, path)
    check(Checkpoint.open(path, weights="vae_local"))
    torch.save(STATE, path)
    assert complaint(path, weights="ema") == f"{path}: holds no 'ema'; it holds one set of weights without a name"
    path = write(tmp_path / "model.safetensors")
    assert complaint(path, weights="ema") == f"{path}: holds no 'ema'; a safetensors file holds one set of weights"


def test_a_prefix_that_only_some_names_carry_stays(tmp_path):
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    check(Checkpoint.open(write(tmp_path / "a.pt", state)), state)


@pytest.mark.parametrize("content", [[1], {"model": [1]}, {"epoch": 1}, torch.ones(1)])
def test_a_pickle_without_a_state_dict_is_refused(tmp_path, content):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    assert f"holds {type(content).__name__}, not a plain state dict of tensors by name" in complaint(path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_the_weights_or_in_a_namespace_is_refused_and_not_executed(tmp_path, zipped):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    for content in (
        {"model": STATE, "extra": Trap(sprung)},
        {"model": STATE, "args": argparse.Namespace(x=Trap(sprung))},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert "nothing in it was executed" in complaint(path)
        assert not sprung.exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "allowed only while a checkpoint is read"


def test_strided_and_shared_tensors_of_a_pickle_are_themselves(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "column": whole[:, 2], "slice": whole[1:3, 1:4], "turned": whole.t(), "same": whole, "again": whole,
        "wide": torch.ones(1).expand(5), "one": torch.tensor(3.0), "none": torch.ones(0, 3),
        "odd": torch.ones(3).byte(),
    }  # fmt: skip
    check(Checkpoint.open(write(tmp_path / "a.pt", state)), state)
    plain = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    check(Checkpoint.open(write(tmp_path / "a.safetensors", plain)), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.bool, torch.int64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_number_formats_are_kept(tmp_path, dtype, suffix):
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    read = Checkpoint.open(write(tmp_path / f"a{suffix}", {"a": tensor}))["a"]
    assert read.dtype == dtype
    assert torch.equal(read.float(), tensor.float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_tensor_is_read_without_the_others(tmp_path, suffix):
    state = {f"t{index}": torch.full((250_000,), float(index)) for index in range(20)}  # 1 MB each
    path = write(tmp_path / f"a{suffix}", state)
    Checkpoint.open(path)["t0"]  # what is imported late is read now
    before = bytes_read()
    checkpoint = Checkpoint.open(path)
    assert [checkpoint.shape(name) for name in checkpoint] == [(250_000,)] * 20
    assert bytes_read() - before < 200_000, "opening reads no tensor"
    before = bytes_read()
    assert float(checkpoint["t7"].sum()) == 7 * 250_000
    assert 1_000_000 <= bytes_read() - before < 1_100_000


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_shrinks_after_it_was_opened_is_an_error_and_no_crash(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", {f"t{index}": torch.full((5000,), float(index)) for index in range(4)})
    checkpoint = Checkpoint.open(path)
    os.truncate(path, 30_000)
    assert float(checkpoint["t0"].sum()) == 0, "what is before the cut is still there"
    with pytest.raises(InputError, match=r"ends early; it was changed after it was opened$"):
        checkpoint["t3"]
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)$"):
        checkpoint["t0"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_pickle_is_refused_in_one_line(tmp_path, share, zipped):
    path = tmp_path / "a.pt"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(share * path.stat().st_size))
    assert complaint(path).startswith(f"{path}: ")


def rewrite(source: Path, target: Path, compression: int, order: bytes) -> None:
    """A PyTorch file zipped anew."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, order if record.filename.endswith("byteorder") else old.read(record))


def test_a_compressed_file_is_read_whole(tmp_path):
    source = write(tmp_path / "a.pt")
    rewrite(source, tmp_path / "b.pt", zipfile.ZIP_DEFLATED, b"little")
    check(Checkpoint.open(tmp_path / "b.pt"))


def test_a_file_of_another_byte_order_does_not_crash_the_process(tmp_path):
    state = {"a": torch.arange(6.0), "b": torch.arange(4).half()}
    swapped = {"a": state["a"].numpy().byteswap(), "b": state["b"].numpy().byteswap()}
    source = write(tmp_path / "a.pt", {name: torch.from_numpy(array) for name, array in swapped.items()})
    rewrite(source, tmp_path / "b.pt", zipfile.ZIP_STORED, b"big")
    check(Checkpoint.open(tmp_path / "b.pt"), state)


def test_a_record_that_is_smaller_than_its_tensor_is_refused(tmp_path):
    source, path = write(tmp_path / "a.pt", {"a": torch.ones(300), "b": torch.ones(300)}), tmp_path / "b.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            content = old.read(record)
            new.writestr(record.filename, content[:100] if record.filename.endswith("data/0") else content)
    assert complaint(path) == f"{path}: not a readable checkpoint, truncated or damaged ('a' is larger than its record)"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_tensors_and_tensors_without_values_are_refused(tmp_path):
    path = write(tmp_path / "a.pt", {"a": torch.eye(3).to_sparse()})
    assert complaint(path) == f"{path}: tensor 'a' is sparse or quantized; save it as a plain tensor"
    write(path, {"a": torch.ones(3, device="meta")})
    assert complaint(path) == f"{path}: tensor 'a' has no values; it was on the meta device when it was saved"


def test_a_format_that_is_not_read_is_named(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert complaint(path) == f"{path}: tensor 'a' is F8_E8M0, a number format that is not read"


def test_renamed_tensors_are_the_same_ones_and_none_drops_them(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path / "a.pt"), {"heads": 1})
    view = checkpoint.renamed(lambda name: name.replace("layers", "blocks") if "layers" in name else None)
    check(view, {f"blocks.{i}.weight": STATE[f"layers.{i}.weight"] for i in (0, 1)})
    assert (view.path, view.weights, view.config) == (checkpoint.path, checkpoint.weights, {"heads": 1})
    assert view.numbers("blocks") == 2
    assert view.bytes == 36
    assert repr(view) == f"Checkpoint('{tmp_path / 'a.pt'}': 2 tensors, 36 bytes)"
    with pytest.raises(InputError, match=r"a\.pt: tensors 'layers\.0\.weight' and 'layers\.1\.weight' are both 'x'$"):
        checkpoint.renamed(lambda name: "x")


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


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_is_one_line_or_leaves_tensors_that_can_be_read(tmp_path, zipped):
    path, generator = tmp_path / "a.pt", torch.Generator().manual_seed(0)
    torch.save({"model": STATE, "ema": OTHER}, path, _use_new_zipfile_serialization=zipped)
    content, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(content)
        for place, value in zip(
            torch.randint(len(content), (4,), generator=generator).tolist(),
            torch.randint(256, (4,), generator=generator).tolist(),
            strict=True,
        ):
            damaged[place] = value
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                checkpoint = Checkpoint.open(path)
                for name in checkpoint:
                    assert tuple(checkpoint[name].shape) == checkpoint.shape(name)
            except InputError:
                refused += 1
    assert refused > 20


INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module._orig_mod")


@pytest.mark.parametrize("part", INSIDE)
@pytest.mark.parametrize("place", ["before", "inside", "both"])
def test_modules_that_training_wraps_around_others_are_taken_off_names(tmp_path, part, place):
    def name(each: str) -> str:
        inner = each.replace("layers.0.", f"layers.0.{part}.").replace("layers.1.", f"layers.1.{part}.")
        return {"before": f"module.{part}.{each}", "inside": inner, "both": f"{part}.module.{inner}"}[place]

    check(Checkpoint.open(write(tmp_path / "m.pt", {name(each): tensor for each, tensor in STATE.items()})))


def test_names_that_are_the_same_without_wrapping_are_refused(tmp_path):
    state = {"layers.0.weight": torch.ones(1), "layers.0._orig_mod.weight": torch.ones(1)}
    assert complaint(write(tmp_path / "m.pt", state)).endswith(
        "two tensors are 'layers.0.weight' without the modules that training wraps around others"
    )


def test_averaged_weights_are_read_without_their_counters(tmp_path):
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in STATE.items()}}
    check(Checkpoint.open(write(tmp_path / "m.pt", averaged)))


@pytest.mark.parametrize("holder", ["params_ema", "model_ema", "generator", "ema", "ema_state_dict", "net"])
def test_the_only_set_of_weights_in_a_file_is_read_and_said(tmp_path, holder):
    torch.save({holder: STATE, "epoch": 3}, tmp_path / "m.pt")
    checkpoint = Checkpoint.open(tmp_path / "m.pt")
    check(checkpoint)
    assert checkpoint.notes == (f"the weights under '{holder}'",)


def test_of_several_sets_of_weights_the_choice_is_said_or_asked_for(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": STATE, "ema": OTHER}, path)
    checkpoint = Checkpoint.open(path)
    check(checkpoint)
    assert checkpoint.notes == ("the weights under 'model'; also there: ema (--set weights=ema reads it)",)
    assert (
        checkpoint.planned().notes == checkpoint.renamed(str).notes == checkpoint.stating({}).notes == checkpoint.notes
    )
    torch.save({"generator": STATE, "params_ema": OTHER}, path)
    assert complaint(path) == (
        f"{path}: holds the weights params_ema, generator; state which to read: config.weights, for example  "
        "--set weights=params_ema"
    )
    check(Checkpoint.open(path, weights="generator"))


def test_a_dotted_key_names_weights_anywhere(tmp_path):
    torch.save({"run": {"best": STATE}, "epoch": 3}, tmp_path / "m.pt")
    check(Checkpoint.open(tmp_path / "m.pt", weights="run.best"))
    assert complaint(tmp_path / "m.pt").endswith(
        "its keys are 'run', 'epoch'; state config.weights, the key of the one to read"
    )


def test_numbers_and_words_beside_tensors_are_left(tmp_path):
    check(Checkpoint.open(write(tmp_path / "m.pt", {**STATE, "epoch": 3, "note": "a", "none": None})))


def test_averaged_weights_without_names_are_refused(tmp_path):
    torch.save({"ema": {"shadow_params": [torch.ones(1)], "decay": 0.9}}, tmp_path / "m.pt")
    assert "averaged weights without names (shadow_params); copy them into the model" in complaint(tmp_path / "m.pt")


def test_what_stands_before_names_is_taken_off(tmp_path):
    state = {f"model.net.{name}": tensor for name, tensor in STATE.items()} | {"loss.weight": torch.ones(1)}
    checkpoint = Checkpoint.open(write(tmp_path / "m.pt", state))
    assert checkpoint.prefixes() == ["loss.", "model.", "model.net.", "model.net.layers.", "model.net.norm."]
    check(checkpoint.behind("model.net."))
    assert checkpoint.behind("model.net.").notes == ("the names behind 'model.net.'; 1 other tensors are left",)
    with pytest.raises(InputError, match=r"no tensor's name begins with 'other\.'"):
        checkpoint.behind("other.")


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 257])
def test_names_that_cannot_be_shown_are_refused(tmp_path, name):
    assert complaint(write(tmp_path / "m.pt", {name: torch.ones(1)})).endswith(
        "names have 1 to 256 printable characters"
    )


def test_special_files_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    assert complaint(tmp_path / "m.pt").endswith("is a named pipe, not a regular file")
    (tmp_path / "d.safetensors").symlink_to("/dev/zero")
    assert complaint(tmp_path / "d.safetensors").endswith("is a device, not a regular file")
    (tmp_path / "b.pt").symlink_to(tmp_path / "nothing")
    assert complaint(tmp_path / "b.pt").endswith("there is no such checkpoint file")
    write(tmp_path / "x.pt")
    os.mkfifo(tmp_path / "config.json")
    assert complaint(tmp_path / "x.pt").endswith("config.json: is a pipe or a device, not a regular file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ("[" * 100_000, "nested deeper than 100 lists"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("\xff", "not UTF-8 text"),
    ],
)
def test_a_config_is_read_strictly(tmp_path, text, said):
    write(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert said in complaint(tmp_path)


def test_a_config_without_end_is_refused(tmp_path):
    write(tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "is larger than 65536 KiB" in complaint(tmp_path)


def test_archives_that_would_expand_without_measure_are_refused(tmp_path):
    path = write(tmp_path / "m.pt", {"a": torch.zeros(80_000_000, dtype=torch.uint8)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr("bomb", bytes(250_000_000))
    assert (tmp_path / "b.pt").stat().st_size < 1_000_000
    assert "bytes would expand to 33" in complaint(tmp_path / "b.pt")


def test_a_tensor_that_is_one_number_repeated_without_measure_is_refused(tmp_path):
    path = write(tmp_path / "m.pt", {"a": torch.zeros(1).expand(10**9)})
    assert complaint(path).endswith("tensor 'a' is (1000000000,), more than the file can hold")


@pytest.mark.parametrize("size", [2**62, 10**9])
def test_a_header_that_lies_about_its_size_is_refused(tmp_path, size):
    (tmp_path / "m.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    assert f"its header is said to take {size} bytes" in complaint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}',
        '{"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}',
        '{"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}',
        '{"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}',
        '{"dtype": "F32", "shape": [1e3], "data_offsets": [0, 8]}',
        '{"dtype": "F32", "shape": [99999999999999999999], "data_offsets": [0, 8]}',
        '{"dtype": {"F32": null}, "shape": [2], "data_offsets": [0, 8]}',
        '["F32", [2], [0, 8]]',
        "[]", "null", "[" * 50_000,
    ],
)  # fmt: skip
def test_headers_that_lie_about_a_tensor_are_refused(tmp_path, entry):
    header = f'{{"a": {entry}}}'.encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a readable safetensors file, truncated or damaged (" in complaint(tmp_path / "m.safetensors")


def test_tensors_that_lie_in_the_same_bytes_are_refused(tmp_path):
    each = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    header = f'{{"a": {each}, "b": {each}}}'.encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a readable safetensors file, truncated or damaged (" in complaint(tmp_path / "m.safetensors")

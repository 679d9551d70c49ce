"""FID by InceptionV3 from a path, against torch-fidelity's own distance."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.settings import InputError
from compress.measure.pictures.distribution import frechet
from compress.measure.pictures.features import check_inception, of_inception

UNUSED = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")


def anything(name: str) -> type:
    """A class of this name, for what is imported and never used."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


@pytest.fixture
def torch_fidelity(monkeypatch):
    """torch-fidelity without torchvision, whose usual build needs CUDA; nothing of it is used here."""
    for name in UNUSED:
        module = ModuleType(name)
        module.__path__ = []
        module.__getattr__ = anything
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    return pytest.importorskip("torch_fidelity", reason="needs  pip install --no-deps torch-fidelity")


@pytest.fixture
def weights(torch_fidelity, tmp_path, monkeypatch):
    """A file of InceptionV3's weights, drawn so that features differ from picture to picture."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    network = inception.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        made = network("drawn", ["2048"])
    torch.manual_seed(0)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.stride == (2, 2) else "fan_in")
    path = tmp_path / "inception.pth"
    torch.save(made.state_dict(), path)
    return path


class Pictures(torch.utils.data.Dataset):
    """Pictures (N, 3, H, W) as torch-fidelity takes them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.mark.slow
def test_fid_is_torch_fidelitys(torch_fidelity, weights) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (20, 24, 24, 3)).astype(np.uint8)
    images[10:, :12] += 55
    sets = images[:10], images[10:]
    wanted = torch_fidelity.calculate_metrics(
        input1=Pictures(sets[0]), input2=Pictures(sets[1]), fid=True, cuda=False, cache=False, verbose=False,
        feature_extractor_weights_path=str(weights), save_cpu_ram=True, batch_size=10,
    )["frechet_inception_distance"]  # fmt: skip
    model = SimpleNamespace(decode_images=lambda tokens: images[tokens[:, 0]])
    extractor = of_inception(weights, model)
    found = [extractor.features(np.arange(start, start + 10)[:, None]) for start in (0, 10)]
    assert extractor.name == "Inception"
    assert found[0].shape == (10, 2048)
    assert wanted > 0.01
    assert frechet(*found) == pytest.approx(wanted, rel=1e-3)


def test_grey_pictures_have_the_features_of_three_equal_colours(weights) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
    found = [
        of_inception(weights, SimpleNamespace(decode_images=lambda tokens, shown=shown: shown)).features(
            np.zeros((2, 1))
        )
        for shown in (grey, grey.repeat(3, axis=3))
    ]
    np.testing.assert_array_equal(*found)


def test_a_file_that_is_no_inception_is_refused_in_a_line(torch_fidelity, tmp_path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"other.pth: InceptionV3 cannot be loaded"):
        of_inception(path, None)
    with pytest.raises(InputError, match=r"bench.inception: missing.pth: no such file"):
        check_inception(Path("missing.pth"), "bench.inception")


def test_torch_fidelity_is_given_what_was_checked_not_the_path(weights, monkeypatch, tmp_path) -> None:
    class Mischief:
        def __reduce__(self):
            return (tmp_path / "executed").mkdir, ()

    load, opened = torch.load, []

    def replaced_behind_the_check(path, **settings):
        found = load(path, **settings)
        opened.append((path, settings.get("weights_only")))
        torch.save({"weights": Mischief()}, weights)
        return found

    monkeypatch.setattr(torch, "load", replaced_behind_the_check)
    assert of_inception(weights, None).name == "Inception"
    assert opened[0] == (weights, True)
    assert weights not in [path for path, _ in opened[1:]]
    assert not (tmp_path / "executed").exists()

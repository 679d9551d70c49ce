import importlib.metadata
import platform

from compress.measure.speed.environment import environment, processor


def test_the_environment_names_this_machine_and_its_libraries():
    found = environment()
    assert found.python == platform.python_version()
    assert found.libraries["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert found.cores >= 1
    assert found.cpu


def test_the_processor_is_read_from_the_first_core(tmp_path):
    first = "processor\t: 0\nmodel name\t: Big: Core\nflags\t\t: fpu avx2 avx512_vnni\n\n"
    (tmp_path / "cpuinfo").write_text(first + "processor\t: 1\nmodel name\t: Small\n")
    model, flags = processor(tmp_path / "cpuinfo")
    assert model == "Big: Core"
    assert flags == {"fpu", "avx2", "avx512_vnni"}


def test_without_cpuinfo_the_processor_still_has_a_name(tmp_path):
    model, flags = processor(tmp_path / "nothing")
    assert model
    assert flags == frozenset()

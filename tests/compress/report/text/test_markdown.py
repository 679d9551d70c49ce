from dataclasses import replace

from compress.measure.pictures.decoding import Decoding, same
from compress.recipe.verdict import Verdict
from compress.report.text.markdown import grid, markdown


def test_the_verdict_comes_first_with_every_breach(report):
    lines = markdown(report).splitlines()
    assert lines[0] == "# Failed: 1 breach"
    assert lines[2].startswith("- cpu: agreement ")
    assert lines[2].endswith(" is below the gate's 99 %")


def test_a_report_without_breaches_passes(report):
    assert markdown(replace(report, verdict=Verdict(True, ()))).startswith("# Passed: every gate was kept\n\n## Steps")


def test_every_model_has_a_row_and_every_batch_its_speed(report):
    page = markdown(report)
    for name in ("reference", "distill", "cpu", "tensorrt"):
        assert f"\n| {name} | " in page
    assert "| cpu | onnxruntime | 1 | 30.00 | 29.10 to 30.90 | 0.469 | 33.3 | 3.00x (2.91 to 3.09) |" in page
    assert "| distill | onnxruntime | 8 | 220.00 |" in page
    assert "1.01x (0.98 to 1.04), no measurable change" in page


def test_what_does_not_pay_or_was_not_built_is_said_in_words(report):
    page = markdown(report)
    assert "- distill: does not pay: no measurable change in speed, no fewer bytes" in page
    assert "- cpu: 87 % of matrix-product time in low precision" in page
    assert "- tensorrt: not built: TensorRT is not installed" in page


def test_accuracy_pictures_machine_and_recipe_are_there(report):
    page = markdown(report)
    assert "- cpu: 94.2 % of 500 pictures are recognised as the class asked for" in page
    assert "drop +0.80 (-1.00 to +3.00) points" in page
    assert "![reference and cpu, same seeds](cpu.png)" in page
    assert "- Fast CPU, 2 cores (avx2), 4096 MiB" in page
    assert "- Linux, Python 3.12.1\n- torch 2.13.0" in page
    assert "```yaml\nmodel:\n  family: reference\n" in page


def test_empty_sections_are_left_out(report):
    page = markdown(replace(report, steps=(), engines=(), pictures={}, reference=replace(report.reference, speed=())))
    assert [line for line in page.splitlines() if line.startswith("##")] == ["## Steps", "## Measured on", "## Recipe"]


def test_a_bar_in_a_cell_does_not_split_it():
    assert grid(["a"], [["x|y"]])[-1] == "| x\\|y |"


def test_image_decoders_have_a_section_where_one_is_not_the_references(report):
    assert "## Image decoder" not in markdown(report)
    cpu = replace(
        report.engines[0],
        decoding=Decoding(
            100, False, 43.256, (43.0, 43.5), 37.11, 0.99412, (0.9938, 0.9944), 2_600_000, 10_100_000,
            12.3, (12.0, 12.9), 39.9, 3.25, (3.1, 3.4),
        ),
    )  # fmt: skip
    exported = replace(report.steps[0], decoding=same(100, 10_100_000))
    page = markdown(replace(report, steps=(exported,), engines=(cpu, report.engines[1])))
    section = page.partition("## Image decoder\n")[2].partition("\n## ")[0]
    assert "| reference | – | – | – | 39.90 | – | 10.1 MB |" in section
    assert "| distill | equal | – | equal | – | – | 10.1 MB |" in section
    assert (
        "| cpu | 43.26 (43.00 to 43.50) | 37.11 | 0.9941 (0.9938 to 0.9944) | 12.30 | 3.25x (3.10 to 3.40) | 2.6 MB |"
        in section
    )
    assert "tokens of 100 held-out pictures" in section
    assert "image decoder 43.3 dB PSNR, SSIM 0.9941, 3.25x to decode a picture" in page

import math
from dataclasses import fields, replace

import pytest

from compress.core.settings import InputError, parse
from compress.measure import Measurement
from compress.measure.drift.curve import Curve
from compress.measure.drift.fidelity import Fidelity
from compress.measure.drift.sampled import Sampled
from compress.measure.pictures.classify import ClassAccuracy
from compress.measure.pictures.decoding import Decoding, same
from compress.measure.speed.timing import SpeedRow
from compress.recipe.gates import gate, gate_class, keys
from compress.recipe.verdict import Verdict, judge

FIDELITY = Fidelity(
    pictures=10,
    tokens=640,
    nll=1.031,
    nll_ci95=(1.0, 1.1),
    reference_nll=1.0,
    reference_nll_ci95=(0.9, 1.1),
    nll_drift=0.031,
    nll_drift_ci95=(0.025, 0.038),
    nll_drift_nats=0.031,
    nll_drift_nats_ci95=(0.025, 0.038),
    nll_drift_bits=None,
    nll_drift_bits_ci95=None,
    kl=0.02,
    kl_ci95=(0.015, 0.026),
    kl_p99=0.1,
    kl_reverse=0.02,
    kl_reverse_ci95=(0.015, 0.026),
    total_variation=0.05,
    total_variation_ci95=(0.04, 0.06),
    agreement_top5=0.99,
    agreement_top5_ci95=(0.98, 1.0),
    agreement_weighted=0.97,
    agreement_weighted_ci95=(0.96, 0.98),
    curve=Curve("position", (0.0,), (0.02,), (0.015,), (0.026,)),
    agreement=0.95,
    agreement_ci95=(0.94, 0.96),
    max_abs_difference=0.5,
)
ACCURACY = ClassAccuracy(300, 0.93, (0.9, 0.95), 0.95, (0.92, 0.97), 0.02, (-0.005, 0.045), 0.99, (0.97, 1.0))

SAMPLED = Sampled(
    10, 1.5, 1.0, 0, 1.0, 0.03, (0.02, 0.04), 0.06, (0.05, 0.07), 0.9, (0.88, 0.92), 0.07, (0.06, 0.08), 0.11
)
DECODING = Decoding(10, False, 40.0, (39.0, 41.0), 36.0, 0.98, (0.97, 0.99), 50, 200)


def speed(batch, speedup, ms=64.0):
    return SpeedRow(
        "onnxruntime", batch, ms, (ms * 0.9, ms * 1.1), ms / 64, 1e3 / ms, speedup, (speedup * 0.9, speedup * 1.1),
        peak_mib=100.0 + batch,
    )  # fmt: skip


MEASURED = Measurement(
    name="distill",
    form="torch",
    parameters=100,
    size_bytes=50,
    size_share=0.5,
    fidelity=FIDELITY,
    sampled=SAMPLED,
    speed=(speed(8, 1.5, ms=200.0), speed(1, 2.0)),
    class_accuracy=ACCURACY,
    low_precision_share=0.8,
    decoding=DECODING,
)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"nll_drift": "2%"}, "nll_drift 3.1 % (95 % interval up to 3.8 %) is above the gate's 2 %"),
        ({"nll_drift": "3.5%"}, "nll_drift 3.1 % (95 % interval up to 3.8 %) is above the gate's 3.5 %"),
        ({"nll_drift": "2%", "decide": "estimate"}, "nll_drift 3.1 % is above the gate's 2 %"),
        ({"kl": 0.025}, "kl 0.02 nats (95 % interval up to 0.026 nats) is above the gate's 0.025 nats"),
        ({"agreement": 0.945}, "agreement 95 % (95 % interval down to 94 %) is below the gate's 94.5 %"),
        ({"max_abs_difference": 0.1}, "max_abs_difference 0.5 is above the gate's 0.1"),
        (
            {"class_accuracy_drop": "3%"},
            "class_accuracy_drop 2 points (95 % interval up to 4.5 points) is above the gate's 3 points",
        ),
        ({"speedup": 1.4}, "speedup 1.5x at batch 8 (95 % interval down to 1.35x) is below the gate's 1.4x"),
        (
            {"speedup": 1.9, "speedup_batch": 1},
            "speedup 2x at batch 1 (95 % interval down to 1.8x) is below the gate's 1.9x",
        ),
        (
            {"latency_ms": 1.05},
            "latency_ms 1 ms at batch 1 (95 % interval up to 1.1 ms) is above the gate's 1.05 ms",
        ),
        ({"size": 0.4}, "size 50 % is above the gate's 40 %"),
        ({"peak_mib": 105}, "peak_mib 108 MiB at batch 8 is above the gate's 105 MiB"),
        ({"decoder_psnr": 39.5}, "decoder_psnr 40 dB (95 % interval down to 39 dB) is below the gate's 39.5 dB"),
        ({"decoder_ssim": "97.5%"}, "decoder_ssim 0.98 (95 % interval down to 0.97) is below the gate's 0.975"),
        ({"low_precision_share": "90%"}, "low_precision_share 80 % is below the gate's 90 %"),
    ],
)
def test_a_breach_names_step_measurement_value_and_gate(limits, text):
    (breach,) = judge(parse(gate_class(), limits, "gate"), MEASURED, "distill")
    assert breach.text.split("; the estimate")[0] == f"distill: {text}"
    assert (breach.step, breach.measurement) == ("distill", next(iter(limits)))


def test_every_limit_is_kept_at_its_very_value():
    kept = gate(
        nll_drift=0.038, kl=0.026, agreement=0.94, max_abs_difference=0.5, class_accuracy_drop=0.045, speedup=1.5 * 0.9,
        latency_ms=1.1000001, size=0.5, peak_mib=108, low_precision_share=0.8,
        decoder_psnr=39.0, decoder_ssim=0.97,
    )  # fmt: skip
    assert judge(kept, MEASURED, "distill") == []
    known = {key.limit.key for key in keys()}
    assert {field.name for field in fields(gate_class())} == {*known, "speedup_batch", "decide", "unmeasured"}


def test_what_was_not_measured_is_kept_where_the_gate_says_so():
    assert len(judge(gate(encoder_agreement=0.99), MEASURED, "distill")) == 1
    assert judge(gate(encoder_agreement=0.99, unmeasured="kept"), MEASURED, "distill") == []
    assert len(judge(gate(encoder_agreement=0.99, kl=0, unmeasured="kept"), MEASURED, "distill")) == 1


def test_the_value_of_a_breach_is_what_was_judged():
    assert judge(gate(nll_drift=0.02), MEASURED, "distill")[0].value == 0.038
    assert judge(gate(nll_drift=0.02, decide="estimate"), MEASURED, "distill")[0].value == 0.031


def test_speedup_is_judged_at_every_batch_unless_one_is_named():
    assert [breach.text[:30] for breach in judge(gate(speedup=3), MEASURED, "x")] == [
        "x: speedup 1.5x at batch 8 (95",
        "x: speedup 2x at batch 1 (95 %",
    ]
    assert len(judge(gate(speedup=3, speedup_batch=8), MEASURED, "x")) == 1


def test_an_exact_pass_is_judged_against_the_step_before_it():
    nearer = replace(FIDELITY, max_abs_difference=1e-5)
    assert judge(gate(max_abs_difference=1e-4), replace(MEASURED, fidelity_vs_previous=nearer), "fuse") == []


@pytest.mark.parametrize("key", [key.limit.key for key in keys()])
def test_what_is_gated_but_not_measured_is_a_breach(key):
    bare = Measurement("export", "onnx", 100, 50)
    (breach,) = judge(gate(**{key: 0.5}), bare, "export")
    assert breach.value is None
    assert breach.text.startswith(f"export: {key} was not measured, so the gate's ")


def test_the_references_own_decoder_keeps_every_gate():
    assert judge(gate(decoder_psnr=100, decoder_ssim=1), replace(MEASURED, decoding=same(10, 5)), "cpu") == []


def test_a_batch_that_was_not_timed_is_a_breach():
    (breach,) = judge(gate(speedup=1, speedup_batch=4), MEASURED, "distill")
    assert breach.text == "distill: speedup was not measured, so the gate's 1x cannot be shown to hold"


def test_a_value_that_is_not_a_number_never_passes():
    broken = replace(MEASURED, fidelity=replace(FIDELITY, nll_drift=math.nan, nll_drift_ci95=(math.nan, math.nan)))
    assert len(judge(gate(nll_drift=1), broken, "distill")) == 1


def test_digits_are_added_until_value_and_gate_read_differently():
    close = replace(MEASURED, size_share=0.50001)
    assert judge(gate(size=0.5), close, "x")[0].text == "x: size 50.001 % is above the gate's 50 %"


def test_an_empty_gate_lets_everything_through():
    assert judge(gate(), MEASURED, "distill") == []


def test_a_verdict_passes_without_breaches_only():
    breaches = judge(gate(kl=0), MEASURED, "distill")
    assert Verdict.of([]) == Verdict(True, ())
    assert Verdict.of(breaches) == Verdict(False, tuple(breaches))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"nll": "2%"}, "gate: unknown key 'nll'; did you mean 'nll_drift'?"),
        ({"nll_drift": 2}, "gate.nll_drift: 2.0 is out of range; it must be between 0 and 1"),
        ({"decide": "mean"}, "gate.decide: 'mean' is not one of 'estimate', 'interval'"),
        ({"speedup": "fast"}, "gate.speedup: 'fast' is not a number"),
    ],
)
def test_a_bad_gate_is_refused(limits, text):
    with pytest.raises(InputError) as error:
        parse(gate_class(), limits, "gate")
    assert str(error.value) == text


def test_a_gate_that_only_the_interval_breaks_says_how_many_pictures_would_tell():
    (breach,) = judge(
        gate(kl=0.025), MEASURED, "distill"
    )  # 0.02 (0.015 to 0.026): half a width of 0.0055, room of 0.005
    assert breach.text.endswith("; the estimate keeps it, and about 13 pictures instead of 10 would show that")
    (breach,) = judge(gate(flip_rate=0.01), MEASURED, "distill")
    assert "pictures" not in breach.text, "the estimate itself is above"

"""Golden values: today's bits. They must never change, or stored runs can't be repeated.

They are a CPU's; an accelerator rounds differently (see the README of the library).

JAX 0.12 multiplies the numbers of its normal draws in another order, and initjax does as the
installed JAX: the last bit may differ there, as may that of a logarithm or an exponential.
Orthogonal matrices are LAPACK's.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import initjax

# The first three numbers of float32 in shape (5, 4, 6) from key 0, as words; if only the center tap
# is nonzero, its first three.
GOLDEN = {
    "uniform": [1008419849, 1008751773, 995738946],
    "uniform(3.0)": [1077277626, 1077666600, 1065300778],
    "normal": [1015344454, 1017506017, 3146650761],
    "normal(0.3)": [1056521443, 1058769492, 3188011841],
    "truncated_normal": [1013877595, 1015838947, 3146201527],
    "truncated_normal(0.3, None, -1.0, 3.0)": [1057092835, 1058982158, 3175116654],
    "orthogonal": [1056626060, 1053784328, 3190135842],
    "orthogonal(1.7, 0)": [1057750193, 3198663155, 1060898762],
    "variance_scaling(0.1, 'fan_out', 'normal')": [1035984134, 1039104082, 3167556412],
    "variance_scaling(3, 'fan_avg', 'uniform')": [1057588727, 1058211085, 3192788105],
    "variance_scaling(1.0, 'fan_in', 'truncated_normal', 0, 1, 2)": [
        1060994987,
        1063202400,
        3193362524,
    ],
    "glorot_uniform": [1050594393, 1051313030, 3186488832],
    "glorot_normal": [1051295272, 1053269643, 3183487442],
    "he_uniform": [1056642306, 1057371590, 3191611369],
    "he_normal": [1057357550, 1058918427, 3189238561],
    "lecun_uniform": [1051822773, 1052626234, 3188000307],
    "lecun_normal": [1052606379, 1054813792, 3184973916],
    "random_uniform": [1027038538, 1027868349, 3163120391],
    "random_uniform(-0.1, 0.3)": [1049551320, 1049966226, 1023857549],
    "random_normal": [1034299543, 1037001498, 3165755820],
    "random_normal(1.0, 0.2)": [1068075558, 1068751047, 1063898314],
    "random_truncated_normal": [1033180953, 1034917660, 3165194278],
    "bounded_normal(1.0, 0.5, 0.0, inf)": [1072206190, 1073814916, 1062063810],
    "in_blocks(he_normal(gain=1.5))": [1057890241, 1059545801, 3189842501],
    "he_normal(gain='tanh', fan_in_divisor=4.0)": [1066853460, 1068611154, 3198882578],
    "delta_orthogonal": [1058429434, 1031964619, 1047935729],
    "scaled_orthogonal": [1060643943, 1033887187, 1050069213],
    "sparse(3)": [1065386890, 3211265463, 3208611895],
    "siren": [1015408914, 1016014922, 3150490258],
    "siren(30.0, True)": [1027038538, 1027868349, 3163120391],
    "random_walk": [1057796030, 1060083776, 3189137356],
    "mup_output(8)": [1047507699, 1049437940, 3179798856],
    "icnr(normal(0.5), 1)": [1062187709, 1065459184, 3193831447],
    "torch_kaiming_uniform(5)": [1036318472, 1037209833, 3172176830],
    "torch_kaiming_normal": [1057184801, 1059320883, 3188484037],
    "torch_bias(64)": [1038431388, 1039468652, 3173759944],
    "log_uniform": [1033957539, 1035571186, 999775768],
    "inverse_softplus(log_uniform())": [3223339562, 3222716895, 3232498054],
    "logarithm(random_uniform(1.0, 16.0))": [1076771295, 1076897212, 1071973098],
    "small_init(64)": [1040407585, 1042543667, 3171706821],
    "wang_init(12, 64)": [1024096041, 1026347670, 3155427344],
    "spectral": [1052362074, 1055382951, 3183906858],
    "unit_norm": [1064273912, 1060556324, 3191451601],
    "kan_spline": [1004526219, 1027831643, 1032924027],
}


@pytest.mark.parametrize("spec", GOLDEN)
def test_draws_equal_the_golden_bits(spec):
    drawn = initjax.parse(spec)(jax.random.key(0), (5, 4, 6), "float32")
    drawn = np.ravel(drawn[2] if spec in ("delta_orthogonal", "scaled_orthogonal") else drawn)[:3]
    expected = np.array(GOLDEN[spec], np.uint32)
    product = "orthogonal" in spec or spec == "kan_spline"
    if product or jax.default_backend() != "cpu":
        rtol = 1e-4 if product else 2e-6
        np.testing.assert_allclose(drawn, expected.view(np.float32), rtol=rtol)
        return
    units = np.abs(drawn.view(np.int32).astype(np.int64) - expected.view(np.int32))
    assert units.max() <= any(word in spec for word in ("norm", "init", "spectral", "log"))


def test_every_law_has_golden_bits():
    fixed = {"zeros", "ones", "constant", "identity", "dirac", "hadamard_identity", "stft"}
    fixed |= {"s4d", "hippo", "layer_scale", "prior_bias", "class_frequency_bias"}
    fixed |= {"forget_gate_bias"}
    aliases = {f"{name}_{kind}" for name in ("xavier", "kaiming") for kind in ("uniform", "normal")}
    pinned = {spec.partition("(")[0] for spec in GOLDEN}
    assert pinned == initjax.NAMES.keys() - fixed - aliases


KINDS = ["uniform(3.0)", "normal(0.3)", "truncated_normal", "random_normal(1.0, 0.2)"]
KINDS += ["truncated_normal(0.3, None, -1.0, 3.0)", "bounded_normal(1.0, 0.5, 0.0, inf)"]
KINDS += ["glorot_uniform", "he_normal", "sparse(3)", "icnr(normal(0.5), 1)"]
DRAW = """
import initjax, jax, numpy as np, sys

path, *specs = sys.argv[1:]
drawn = {}
for spec in specs:
    initializer = initjax.parse(spec)
    arguments = jax.random.key(0), (5, 16, 24), "float32"
    drawn[spec] = initializer(*arguments)
    drawn[spec + " inside of jit"] = jax.jit(initializer, static_argnums=(1, 2))(*arguments)
np.savez(path, **drawn)
"""


def test_the_compiler_flags_of_the_tests_do_not_change_bits(tmp_path):
    """The compiler flags in conftest.py, which only save compilation, don't change any bit."""
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for name, flags in (("fast", os.environ), ("default", plain)):
        environment = {**flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", DRAW, tmp_path / f"{name}.npz", *KINDS]
        subprocess.run(command, env=environment, check=True)
    fast, default = np.load(tmp_path / "fast.npz"), np.load(tmp_path / "default.npz")
    assert len(default.files) == 2 * len(KINDS)
    for name in default.files:
        np.testing.assert_array_equal(default[name], fast[name], err_msg=name)

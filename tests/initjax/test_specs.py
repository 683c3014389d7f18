"""Specifications: valid ones, and invalid ones with one helpful line."""

import inspect
import json

import hypothesis
import hypothesis.strategies as st
import jax
import pytest

import initjax


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("he_normal", initjax.he_normal()),
        (" he_normal ( ) ", initjax.he_normal()),
        ("xavier_normal", initjax.glorot_normal()),
        ("random_uniform(-0.1, 0.1)", initjax.random_uniform(-0.1, 0.1)),
        ("random_uniform(minval=-1, maxval=+1)", initjax.random_uniform(-1, 1)),
        (
            'variance_scaling(2.0, "fan_in", "normal")',
            initjax.variance_scaling(2.0, "fan_in", "normal"),
        ),
        (
            "he_normal(in_axis=(0, 1), dtype='bfloat16')",
            initjax.he_normal((0, 1), dtype="bfloat16"),
        ),
        ("zeros", initjax.zeros),
        ("ones()", initjax.ones),
        ("constant([1, 2])", initjax.constant((1.0, 2.0))),
    ],
)
def test_parses_valid_specifications(spec, expected):
    assert initjax.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "he_norml",
            r"^unknown initializer 'he_norml'; did you mean he_normal\? valid names: he_n.*zeros",
        ),
        ("HeNormal", r"unknown initializer 'HeNormal'; did you mean he_normal\? valid names: he"),
        ("zero", r"unknown initializer 'zero'; did you mean zeros\? valid names: zeros, ones"),
        ("qqqqq", "unknown initializer 'qqqqq'; valid names: zeros, ones"),
        ("he_normal(inaxis=0)", "he_normal has no parameter 'inaxis'; valid parameters: in_axis, "),
        ("he_normal(1, 2, 3, 4, 5)", "he_normal: too many positional arguments; parameters: in_"),
        ("variance_scaling(1.0)", "variance_scaling: missing a required argument: 'mode'"),
        ("normal(stddev=-1)", "normal: stddev must be a finite number >= 0, got -1"),
        ("normal(1e999)", "normal: stddev must be a finite number >= 0, got inf"),
        ("normal('wide')", "normal: stddev must be a real number, got 'wide'"),
        ("zeros(1)", "zeros takes no arguments"),
        ("normal(stddev=1, stddev=2)", "cannot read"),
        ("", "cannot read ''"),
        ("he_normal(", "cannot read"),
        ("he_normal; he_normal", "cannot read"),
        ("normal(**{'stddev': 1})", "cannot read"),
        ("normal(*[1])", "cannot read"),
        ("initjax.normal()", "cannot read"),
        ("normal(__import__('os').getpid())", "cannot read"),
        ("__import__('os')", "unknown initializer '__import__'"),
        ("(" * 500, "cannot read"),
        ("normal(" + "0" * 10_000 + ")", "cannot read"),
        ("normal\x00", "cannot read"),
        (
            "in_blocks(he_norml)",
            r"in 'in_blocks\(he_norml\)': unknown initializer 'he_norml'; did you mean he_normal",
        ),
        (
            "icnr(normal(-1))",
            r"in 'icnr\(normal\(-1\)\)': normal: stddev must be a finite number >= 0, got -1",
        ),
        (
            "variance_scaling(2.0, fan_in, normal)",
            r"fan_in is not an initializer; write text in quotes: \"fan_in\"$",
        ),
        ("in_blocks(he)", "unknown initializer 'he'; did you mean he_uniform or he_normal"),
        ("HE", "unknown initializer 'HE'; did you mean he_uniform or he_normal"),
        (
            "icnr(icnr(normal(stdev=1)))",
            "normal has no parameter 'stdev'; valid parameters: stddev",
        ),
    ],
)
def test_invalid_specifications_get_one_line_errors(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        initjax.parse(spec)
    assert "\n" not in str(error.value)


@hypothesis.given(
    st.text() | st.from_regex(r"\A(normal|zeros|constant)\([-0-9.,a-z='\[\]() ]*\)\Z")
)
def test_any_text_is_parsed_or_raises_a_value_error(spec):
    try:
        initjax.parse(spec)
    except ValueError:
        pass


TYPES = {"Initializer", "Change", "Finding", "Layer", "LowRank", "Network", "Parameter", "Repair"}
TYPES |= {"Attention", "ComparedLeaf", "Comparison", "IdentifiedLeaf", "Identification", "Report"}
TYPES |= {"Choice", "Evidence", "Measured", "Prediction", "Recommendation"}
TYPES |= {"Multiplier", "Plan", "PlannedLeaf"}
TYPES |= {"Coordinate", "CoordinateCheck", "Fault", "Slope"}


def test_every_public_initializer_has_a_name_and_every_name_is_public():
    for name, made in initjax.NAMES.items():
        assert getattr(initjax, name) is made
    public = set(initjax.__all__) - TYPES - {"NAMES"}
    no_initializers = {name for name in public if name.endswith(("_fans", "gain"))}
    no_initializers |= {"get", "initialize", "named_key", "parse", "rescale"}
    no_initializers |= {"deepnorm", "deepnorm_constants", "fixup", "mimetic", "t_fixup"}
    no_initializers |= {"residual_scaling", "audit", "auditor", "fix"}
    no_initializers |= {"identify", "compare_leaves", "recommend", "parametrize"}
    no_initializers |= {"coordinate_check"}
    no_initializers |= {"depth_indexed", "pissa", "olora", "lora_ga", "lora_scale"}
    assert public - initjax.NAMES.keys() == no_initializers


def test_every_public_name_is_documented_with_an_example():
    for name in initjax.__all__:
        public = getattr(initjax, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert public.__doc__, name
            if name not in TYPES:
                assert ">>>" in public.__doc__, name
                assert ("Args:" in public.__doc__) == bool(inspect.signature(public).parameters)


@pytest.mark.parametrize(
    ("identifier", "spec"),
    [
        ("xavier_uniform", "glorot_uniform"),
        (initjax.he_normal, "he_normal"),
        (initjax.orthogonal, "orthogonal"),
        (initjax.zeros, "zeros"),
        (initjax.normal(0.3), "normal(0.3)"),
        ({"class_name": "Zeros"}, "zeros"),
        ({"class_name": "HeNormal", "config": {"seed": 3, "input_axes": None}}, "he_normal"),
        ({"class_name": "Orthogonal", "config": {"gain": 2.0, "seed": None}}, "orthogonal(2.0)"),
        (
            {
                "module": "keras.initializers",
                "class_name": "VarianceScaling",
                "config": {
                    "scale": 3.0,
                    "mode": "fan_out",
                    "distribution": "normal",
                    "seed": None,
                    "input_axes": [0],
                    "output_axes": None,
                },
                "registered_name": None,
            },
            "variance_scaling(3.0, 'fan_out', 'truncated_normal', (0,))",
        ),
        (
            {
                "class_name": "VarianceScaling",
                "config": {"scale": 1.0, "mode": "fan_in", "distribution": "untruncated_normal"},
            },
            "variance_scaling(1.0, 'fan_in', 'normal')",
        ),
        ({"class_name": "VarianceScaling"}, "variance_scaling(1.0, 'fan_in', 'truncated_normal')"),
        ({"class_name": "Constant", "config": {}}, "zeros"),
        ("OrthogonalInitializer", "orthogonal"),
        ({"class_name": "OrthogonalInitializer", "config": {"gain": 2.0}}, "orthogonal(2.0)"),
        ({"class_name": "IdentityInitializer", "config": {"gain": 2.0}}, "identity(2.0)"),
        ({"class_name": "STFTInitializer", "config": {"side": "imag"}}, "stft('imag')"),
        ({"class_name": "HeNormal", "config": None}, "he_normal"),
        ({"class_name": "glorot_uniform", "config": {"seed": 3}}, "glorot_uniform"),
        ({"class_name": "uniform", "config": {}}, "random_uniform"),
        ({"class_name": "truncated_normal"}, "random_truncated_normal"),
        ('{"class_name": "HeNormal", "config": {"seed": 3}}', "he_normal"),
        (type("HeNormal", (), {"get_config": lambda self: {}}), "he_normal"),
    ],
)
def test_get_accepts_every_form_of_an_initializer(identifier, spec):
    assert initjax.get(identifier) == initjax.parse(spec)


@pytest.mark.parametrize(
    ("identifier", "error", "message"),
    [
        ("he_norml", ValueError, "unknown initializer 'he_norml'; did you mean he_normal"),
        ({"class_name": "HeNorml"}, ValueError, "class_name must be one of .*HeNormal, "),
        ({"class_name": "HeNormal", "config": {"gian": 2}}, ValueError, "HeNormal has no .*'gian'"),
        (
            {"class_name": "VarianceScaling", "config": {"distribution": ["normal"]}},
            ValueError,
            r"distribution must be one of .*; got \['normal'\]",
        ),
        ({"class_name": "HeNormal", "config": "x"}, ValueError, "config must be a dictionary, got"),
        ({"class_name": "Constant", "config": {"value": {}}}, ValueError, "value must be numbers"),
        ('{"class_name": "HeNormal"', ValueError, "get: cannot read '{.* as JSON"),
        ("[" * 9, ValueError, "cannot read"),
        ("{" * 100_000, ValueError, "cannot read"),
        ("{}", ValueError, "class_name must be one of .* got None"),
        ("HeInitializer", ValueError, "unknown initializer 'HeInitializer'"),
        (None, TypeError, "identifier must be an initializer, .* got None"),
        ({"class_name": ["HeNormal"]}, ValueError, "class_name must be one of"),
        (
            {"class_name": "VarianceScaling", "config": {"distribution": ["normal"]}},
            ValueError,
            r"distribution must be one of .* got \['normal'\]",
        ),
        (initjax.constant, ValueError, "constant: missing a required argument: 'value'"),
        (int, TypeError, "identifier must be an initializer"),
        (dict, TypeError, "identifier must be an initializer"),
        (print, TypeError, "identifier must be an initializer"),
        (jax.nn.initializers.he_normal, TypeError, "such as he_normal.. with its parentheses"),
    ],
)
def test_get_errors_say_what_is_valid(identifier, error, message):
    with pytest.raises(error, match=message):
        initjax.get(identifier)


# From `keras.initializers.serialize` of Keras 3.15. Its configuration of Identity lacks the gain,
# and arrays are NumPy's or the backend's.
KERAS = [
    ("Zeros", {}, "zeros"),
    ("Ones", {}, "ones"),
    ("Constant", {"value": 3.0}, "constant(3.0)"),
    ("Constant", {"value": [1, 2]}, "constant([1, 2])"),
    (
        "Constant",
        {
            "value": {
                "class_name": "__numpy__",
                "config": {"value": [1.0, 2.0], "dtype": "float32"},
            }
        },
        "constant([1, 2])",
    ),
    (
        "Constant",
        {
            "value": {
                "class_name": "__tensor__",
                "config": {"value": [1.0, 1.0], "dtype": "float32"},
            }
        },
        "constant([1, 1])",
    ),
    ("Identity", {}, "identity"),
    (
        "STFT",
        {"side": "imag", "window": ("kaiser", 8.0), "periodic": False, "scaling": "density"},
        "stft('imag', ('kaiser', 8.0))",
    ),
    ("RandomNormal", {"seed": 3, "mean": 1.0, "stddev": 0.2}, "random_normal(1.0, 0.2)"),
    ("RandomUniform", {"seed": None, "minval": -0.1, "maxval": 0.3}, "random_uniform(-0.1, 0.3)"),
    (
        "TruncatedNormal",
        {"seed": None, "mean": 1.0, "stddev": 0.2},
        "random_truncated_normal(1.0, 0.2)",
    ),
    (
        "VarianceScaling",
        {
            "seed": None,
            "scale": 3.0,
            "mode": "fan_out",
            "distribution": "truncated_normal",
            "input_axes": [0],
            "output_axes": [1],
        },
        "variance_scaling(3.0, 'fan_out', 'truncated_normal', (0,), (1,))",
    ),
    *(
        (
            f"{word}{kind}",
            {"seed": None, "input_axes": None, "output_axes": None},
            f"{word}_{kind}".lower(),
        )
        for word in ("Glorot", "He", "Lecun")
        for kind in ("Normal", "Uniform")
    ),
    (
        "HeNormal",
        {
            "seed": {
                "module": "keras.random",
                "class_name": "SeedGenerator",
                "config": {"seed": 3, "name": "seed_generator"},
                "registered_name": None,
            },
            "input_axes": -2,
            "output_axes": -1,
        },
        "he_normal",
    ),
    ("Orthogonal", {"seed": None, "gain": 1.5}, "orthogonal(1.5)"),
]


@pytest.mark.parametrize(("class_name", "config", "spec"), KERAS)
def test_get_reads_keras_configurations_and_initializers(class_name, config, spec):
    written = {
        "module": "keras.initializers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }
    expected = initjax.parse(spec)
    assert initjax.get(written) == initjax.get(json.loads(json.dumps(written))) == expected
    made = type(class_name, (), {"get_config": lambda self: config, "__call__": print})()
    assert initjax.get(made) == expected


def test_the_gain_of_a_keras_identity_is_read_from_the_object():
    identity = type("Identity", (), {"get_config": lambda self: {}, "gain": 2.0})()
    assert initjax.get(identity) == initjax.identity(2.0)  # pyright: ignore


@pytest.mark.parametrize(
    ("spec", "value"),
    [("2**0.5", 2**0.5), ("1/3", 1 / 3), ("-3*2**-1", -1.5), ("2**(1/2)", 2**0.5)],
)
def test_numbers_may_be_products_and_powers(spec, value):
    assert initjax.parse(f"orthogonal({spec})") == initjax.orthogonal(value)


@pytest.mark.parametrize("spec", ["9**9**9", "1/0", "'a'*3", "1+1", "zeros*2", "2**0.5j"])
def test_other_arithmetic_is_refused(spec):
    with pytest.raises(ValueError, match="cannot read"):
        initjax.parse(f"orthogonal({spec})")


def test_get_knows_keras_class_names():
    assert initjax.get("HeNormal") == initjax.he_normal()
    assert initjax.get("Zeros") == initjax.zeros
    assert initjax.get("TruncatedNormal") == initjax.random_truncated_normal()

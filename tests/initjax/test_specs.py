"""Specifications: what can be read, and what is refused in one helpful line."""

import inspect

import hypothesis
import hypothesis.strategies as st
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
def test_reads(spec, expected):
    assert initjax.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "he_norml",
            r"unknown initializer 'he_norml'; valid names: he_normal, he_uniform, .*zeros",
        ),
        ("HeNormal", r"unknown initializer 'HeNormal'; valid names: he_normal, "),
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
    ],
)
def test_refuses_in_one_line(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        initjax.parse(spec)
    assert "\n" not in str(error.value)


@hypothesis.given(
    st.text() | st.from_regex(r"\A(normal|zeros|constant)\([-0-9.,a-z='\[\]() ]*\)\Z")
)
def test_any_text_is_read_or_refused_with_a_value_error(spec):
    try:
        initjax.parse(spec)
    except ValueError:
        pass


def test_every_public_initializer_has_a_name_and_every_name_is_public():
    for name, made in initjax.NAMES.items():
        assert getattr(initjax, name) is made
    public = set(initjax.__all__) - {"Initializer", "NAMES"}
    no_initializers = {name for name in public if name.endswith(("_fans", "gain"))}
    no_initializers |= {"get", "initialize", "named_key", "parse", "rescale"}
    no_initializers |= {"deepnorm", "deepnorm_constants", "fixup", "mimetic", "t_fixup"}
    no_initializers |= {"residual_scaling"}
    assert public - initjax.NAMES.keys() == no_initializers


def test_every_public_name_is_documented_with_an_example():
    for name in initjax.__all__:
        public = getattr(initjax, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert public.__doc__, name
            if name != "Initializer":
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
    ],
)
def test_get_takes_whatever_names_an_initializer(identifier, spec):
    assert initjax.get(identifier) == initjax.parse(spec)


@pytest.mark.parametrize(
    ("identifier", "error", "message"),
    [
        ("he_norml", ValueError, "unknown initializer 'he_norml'; valid names: he_normal"),
        ({"class_name": "HeNorml"}, ValueError, "class_name must be one of .*HeNormal, "),
        ({"class_name": "HeNormal", "config": {"gian": 2}}, ValueError, "get: HeNormal: .*gian"),
        (None, TypeError, "an identifier is a specification, .* got None"),
    ],
)
def test_get_says_what_it_would_take(identifier, error, message):
    with pytest.raises(error, match=message):
        initjax.get(identifier)


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

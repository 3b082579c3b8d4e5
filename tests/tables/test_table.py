"""Tables: lookups, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx


def product(dims, options):
    return lx.SearchSpace([lx.Choice(f"c{i}", [f"o{j}" for j in range(options)]) for i in range(dims)])


@pytest.mark.parametrize("dims", [4, 40], ids=["one digit", "several digits"])
def test_lookup_finds_every_code_and_says_nan_for_others(dims):
    space, rng = product(dims, 5), np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 5, (400, dims)), axis=0).astype(np.int32)
    rng.shuffle(codes)
    inside, outside = codes[:-50], codes[-50:]
    values = rng.normal(size=len(inside))
    table = lx.Table(space, inside, values)
    lookup = jax.jit(table.lookup)
    np.testing.assert_allclose(lookup(inside), values, rtol=1e-6)
    assert np.isnan(lookup(outside)).all()
    assert np.isnan(lookup(np.full((1, dims), -1, np.int32))).all()
    assert table.best == pytest.approx(values.max())
    assert len(table) == len(inside)


@pytest.mark.parametrize(
    ("codes", "values", "message"),
    [
        ([[0, 0], [1, 0], [0, 0]], [1, 2, 3], "1 rows of the table repeat the code of an earlier row: 2"),
        ([[0, 0], [1, 0]], [1, float("nan")], "1 rows of the table hold a value that is not finite in float32: 1"),
        ([[0, 0], [1, 3]], [1, 2], r"position 1 \(c1\) holds 3, expected 0 to 2"),
        ([[0, 0], [1, 1]], [1], "2 codes need shape"),
    ],
)
def test_bad_tables_are_refused_with_the_rows(codes, values, message):
    with pytest.raises(ValueError, match=message):
        lx.Table(product(2, 3), np.array(codes, np.int32), np.array(values, np.float32))


@pytest.fixture(scope="module")
def table():
    space = product(4, 3)
    codes = space.enumerate()[::2]
    return lx.Table(space, codes, np.cos(codes @ np.array([1.0, 2.0, 3.0, 5.0])))


def test_simulated_searches_are_those_of_ask_and_tell(table):
    searcher = lx.RandomSearch(table.space)
    trace = lx.simulate(searcher, table, budget=10, seeds=5, batch=4)
    assert trace.codes.shape == (5, 10, 4)
    np.testing.assert_allclose(trace.values, jax.vmap(table.lookup)(trace.codes))
    alone = lx.RandomSearch(table.space, pool=table.codes, capacity=10)
    state = alone.init(jax.random.fold_in(jax.random.key(0), 3))
    asked = []
    for n in (4, 4, 2):
        state, codes = alone.ask(state, n)
        state = alone.tell(state, codes, table.lookup(codes))
        asked.append(np.asarray(codes))
    np.testing.assert_array_equal(trace.codes[3], np.concatenate(asked))
    assert len(np.unique(np.asarray(trace.codes), axis=0)) == 5


def test_a_sweep_of_numbers_is_one_program_and_each_setting_searches_as_alone(table):
    sweep = [lx.RegularizedEvolution(table.space, population=n) for n in (2, 5, 8, 11, 14)]
    compiled = []

    def listen(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration" and more.get("fun_name") == "jit(_run)":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        together = lx.simulate(sweep, table, budget=16, seeds=3, batch=4)
        assert len(compiled) == 1
        alone = [lx.simulate(searcher, table, budget=16, seeds=3, batch=4) for searcher in sweep]
        assert len(compiled) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert together.codes.shape == (5, 3, 16, 4)
    for found, expected in ((together.codes, "codes"), (together.values, "values")):
        np.testing.assert_array_equal(found, np.stack([getattr(trace, expected) for trace in alone]))
    assert any((alone[0].codes != other.codes).any() for other in alone[1:])


def test_searchers_of_one_sweep_differ_in_numbers_alone(table):
    with pytest.raises(ValueError, match=r"searcher 0 \(LaNAS\) and searcher 1 \(LaNAS\) differ in more"):
        lx.simulate([lx.LaNAS(table.space), lx.LaNAS(table.space, height=2)], table, budget=4, seeds=2)
    with pytest.raises(ValueError, match="at least one searcher; got none"):
        lx.simulate([], table, budget=4, seeds=2)


def test_an_exhausted_table_ends_a_search(table):
    trace = lx.simulate(lx.LaNAS(table.space), table, budget=50, seeds=2, batch=5)
    size = len(table)
    assert size == 41
    for codes, values in zip(np.asarray(trace.codes), np.asarray(trace.values), strict=True):
        assert len(np.unique(codes[:size], axis=0)) == size
        assert (codes[size:] == -1).all()
        assert np.isnan(values[size:]).all()


@pytest.mark.slow
def test_learning_needs_fewer_samples_than_chance(table):
    values = {
        make: np.asarray(lx.simulate(make(table.space), table, budget=24, seeds=16, batch=2).values)
        for make in (lx.LaNAS, lx.RandomSearch)
    }
    hits = {make: (v >= table.best - 1e-6).any(axis=1).sum() for make, v in values.items()}
    # Random search finds the best of 41 within 24 draws with probability 0.585: 16 of 16 by chance, 2e-4.
    assert hits[lx.LaNAS] > hits[lx.RandomSearch]


@pytest.mark.parametrize("setting", ["budget", "seeds", "batch"])
def test_settings_below_one_are_refused(table, setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1; got 0"):
        lx.simulate(lx.RandomSearch(table.space), table, **{"budget": 2, "seeds": 2, "batch": 1} | {setting: 0})


def test_best_is_a_number_of_python():
    assert isinstance(lx.Table(product(2, 3), np.zeros((1, 2), np.int32), jnp.ones(1)).best, float)


@pytest.mark.usefixtures("unchecked")
def test_searchers_of_other_choices_are_refused():
    """They would otherwise learn from the table's codes as from those of their own networks."""
    space = lx.SearchSpace([lx.Choice("a", (1, 2, 3)), lx.Choice("b", "xy")])
    table = lx.Table(space, space.enumerate(), np.arange(6, dtype=np.float32))
    other = lx.SearchSpace([lx.Choice("a", (1, 2, 3)), lx.Choice("b", "xz")])
    more = lx.SearchSpace([*space.choices, lx.Choice("c", "xy")])
    for searcher, message in (
        (lx.RandomSearch(other), r"the searcher has the choice b \(x, z\), where the table has b \(x, y\): build"),
        (lx.RandomSearch(more), r"the searcher has the choice c \(x, y\), where the table has none: build"),
        (lx.RandomSearch, "searcher must be a searcher"),
        (None, "searcher must be a searcher, such as RandomSearch.*; got None"),
    ):
        with pytest.raises(ValueError, match=message):
            lx.simulate(searcher, table, 2, 1)
    labels = lx.SearchSpace([lx.Choice("a", (1, 2, 3), ordered=False), lx.Choice("b", "xy")])
    assert lx.simulate(lx.RandomSearch(labels), table, 2, 1).values.shape == (1, 2)
    with pytest.raises(ValueError, match="a table needs at least one code; got none"):
        lx.Table(space, space.enumerate()[:0], np.zeros(0, np.float32))

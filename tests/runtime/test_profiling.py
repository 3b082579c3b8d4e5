"""Traces of a few steps, as JAX's profiler writes them."""

import jax
import jax.numpy as jnp
import pytest

from lanas_jax.runtime.profiling import marked_step, recording

# JAX makes the type of these on first use; where this warning is an error, nanobind aborts the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__:DeprecationWarning")


@jax.jit
def double(x):
    return 2 * x


def steps_of(folder, kind):
    """The numbers of the steps of a kind in the trace of a folder."""
    (file,) = folder.rglob("*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(file))  # planes and events do not keep it alive
    events = (event for plane in trace.planes for line in plane.lines for event in line.events)
    return [dict(event.stats)["step_num"] for event in events if event.name == kind]


def take(kind, number):
    for _ in range(number):
        with marked_step(kind):
            double(jnp.ones(3)).block_until_ready()


def test_the_second_to_fourth_steps_of_each_kind_are_traced(tmp_path):
    take("train", 1)
    with recording(tmp_path / "traces") as traced:
        take("train", 6)
        take("values", 3)  # whose trace the end writes
        take("once", 1)
    take("train", 1)
    assert traced == ["train", "values"]
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == ["train", "values"]
    first, *others = steps_of(tmp_path / "traces" / "train", "train")
    assert others == [first + 1, first + 2]
    assert steps_of(tmp_path / "traces" / "values", "values") == [first + 6, first + 7]


def test_a_kind_that_another_interrupts_and_an_error_end_a_trace(tmp_path):
    def stop():
        with recording(tmp_path):
            take("train", 2)
            take("values", 2)
            with marked_step("values"):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop()
    assert len(steps_of(tmp_path / "train", "train")) == 1
    assert len(steps_of(tmp_path / "values", "values")) == 2
    with recording(tmp_path / "again"):  # nothing is under way
        take("train", 2)


def test_without_a_folder_nothing_is_traced(tmp_path):
    with recording(None) as traced:
        take("train", 3)
    assert traced == []

"""The study: the loop ends with the trials it should, goes on after failures, and resumes to the same trials."""

import dataclasses
import json
import shutil
import sqlite3

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.evaluators.base import NotPreparedError, Outcome
from lanas_jax.storage import software
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.results import network_results
from lanas_jax.storage.trial import Status
from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, StudyError, discovery, replay, run_folder
from lanas_jax.study.experiment import Silence, WinnerTraining
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer import loop
from lanas_jax.trainer.step import shapes
from tests.study.linear_winner import NETWORK, RECIPE, winner_training
from tests.trainer.tiny_training import Stop

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])


@dataclasses.dataclass
class Distance:
    """Minus the distance to a hidden code, and noise from the trial's key; fails as told and counts its calls."""

    nan: tuple[int, ...] = ()  # first integers of codes whose value is NaN
    raising: tuple[int, ...] = ()  # first integers of codes for which it raises
    stop_before: int | None = None  # call before which Ctrl-C is pressed
    calls: int = 0
    codes_seen: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    def evaluate(self, codes, keys):
        self.calls += 1
        if self.calls - 1 == self.stop_before:
            raise KeyboardInterrupt
        if any(int(code[0]) in self.raising for code in codes):
            raise ArithmeticError("this operation cannot be built")
        self.codes_seen += [tuple(code) for code in codes.tolist()]
        return [self._outcome(code, key) for code, key in zip(codes, keys, strict=True)]

    def _outcome(self, code, key):
        if int(code[0]) in self.nan:
            return Outcome(None, "loss became NaN at step 7", train_seconds=0.1)
        noise = float(jax.random.uniform(key, dtype=np.float32)) / 10
        return Outcome(noise - float(np.abs(code - 2).sum()), multiply_adds=int(code.sum()), parameters=7)


class InItsOwnBits(Distance):
    """An evaluator keeps the mode of its process."""

    def evaluate(self, codes, keys):
        assert jax.numpy.zeros(1).dtype == np.float64
        return super().evaluate(codes, keys)


def experiment(evaluator=None, **changes):
    settings = {"budget": 22, "batch": 4, "seed": 3}
    searcher = changes.pop("searcher", lx.RandomSearch(SPACE))
    return Experiment("distance", searcher.space, searcher, evaluator or Distance(), **settings | changes)


def run(experiment, directory):
    return study.run(experiment, directory)


def essence(trials):
    """All of a trial that does not depend on the clock."""
    return [
        (t.id, t.batch, t.code, t.key, t.status, t.value, t.multiply_adds, t.parameters, t.reason, t.software)
        for t in trials
    ]


def recorded(directory):
    with TrialStore.open(directory / "trials.sqlite") as store:
        return store.trials()


@pytest.fixture(scope="module", params=["random", "lanas"])
def searcher(request):
    return {"random": lx.RandomSearch, "lanas": lx.LaNAS}[request.param](SPACE)


@pytest.fixture(scope="module")
def uninterrupted(searcher, tmp_path_factory):
    return run(experiment(searcher=searcher), tmp_path_factory.mktemp("whole") / "run")


def test_budget_is_used_up_in_batches(uninterrupted):
    trials = uninterrupted.trials
    assert [trial.id for trial in trials] == list(range(22))
    assert [trial.batch for trial in trials] == [i // 4 for i in range(22)]
    assert all(trial.status == Status.DONE for trial in trials)
    assert len({trial.code for trial in trials}) == 22
    assert not uninterrupted.exhausted
    assert uninterrupted.best.value == max(trial.value for trial in trials)
    assert recorded(uninterrupted.directory) == trials


def test_trial_keys_are_folded_from_seed_and_number(uninterrupted):
    for trial in uninterrupted.trials:
        words = np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(3), trial.id)))
        assert trial.key == "".join(f"{word:08x}" for word in words)
        noise = float(jax.random.uniform(jax.random.fold_in(jax.random.key(3), trial.id), dtype=np.float32)) / 10
        assert trial.value == noise - float(np.abs(np.array(trial.code) - 2).sum())


def test_config_says_what_was_asked_for(uninterrupted):
    record = json.loads((uninterrupted.directory / "config.json").read_text())
    assert {name: record[name] for name in ("experiment", "seed", "budget", "batch")} == {
        "experiment": "distance",
        "seed": 3,
        "budget": 22,
        "batch": 4,
    }
    assert record["software"].keys() == {"python", "lanas_jax", "jax", "flax", "optax", "numpy"}


def test_64_bit_mode_changes_no_trial_and_no_resumed_one(searcher, uninterrupted, tmp_path):
    stopped = InItsOwnBits(stop_before=2)
    with jax.enable_x64(True), pytest.raises(KeyboardInterrupt):
        run(experiment(stopped, searcher=searcher), tmp_path / "run")
    with jax.enable_x64(True):
        resumed = run(experiment(InItsOwnBits(), searcher=searcher), tmp_path / "run")
    assert [trial.code for trial in resumed.trials] == [trial.code for trial in uninterrupted.trials]
    assert [trial.key for trial in resumed.trials] == [trial.key for trial in uninterrupted.trials]


@pytest.mark.parametrize("stop", [2, 5, *(pytest.param(x, marks=pytest.mark.slow) for x in (0, 1, 3, 4))])
@pytest.mark.parametrize("checkpoint", ["kept", "lost"])
def test_interrupted_run_resumes_to_the_same_trials(searcher, uninterrupted, tmp_path, stop, checkpoint):
    stopped = Distance(stop_before=stop)
    with pytest.raises(KeyboardInterrupt):
        run(experiment(stopped, searcher=searcher), tmp_path / "run")
    before = recorded(tmp_path / "run")
    assert [trial.status for trial in before] == ["done"] * 4 * stop + ["pending"] * (len(before) - 4 * stop)
    if checkpoint == "lost":
        shutil.rmtree(tmp_path / "run" / "checkpoint")
    rest = Distance()
    resumed = run(experiment(rest, searcher=searcher), tmp_path / "run")
    assert essence(resumed.trials) == essence(uninterrupted.trials)
    assert resumed.trials[: 4 * stop] == before[: 4 * stop]  # kept as they were, down to the clock
    assert rest.codes_seen == [trial.code for trial in uninterrupted.trials[4 * stop :]]  # nothing is trained twice
    metrics, whole = ((run.directory / "metrics.csv").read_bytes() for run in (resumed, uninterrupted))
    assert metrics == whole
    assert metrics.count(b"\n") == 1 + 22


def test_finished_run_stays_as_it_is(uninterrupted, searcher):
    again = Distance()
    result = run(experiment(again, searcher=searcher), uninterrupted.directory)
    assert again.calls == 0
    assert (result.trials, result.final) == (uninterrupted.trials, None)


@pytest.fixture(scope="module")
def won(tmp_path_factory):
    """A search of four trials and the training of its winner."""
    return run(experiment(winner=winner_training(), budget=4), tmp_path_factory.mktemp("won") / "run")


class StoppedTraining(Silence):
    """Ctrl-C in the middle of the winner training."""

    def training(self, winner):
        return Stop(at=10)


def test_the_trainer_trains_the_winner_and_the_test_images_are_read_once(won, monkeypatch):
    folder = folders.open_folder(won.directory / "final")
    assert tuple(won.final["code"]) == won.best.code
    assert (won.final["steps"], won.final["seed"]) == (15, sum(won.best.code))
    assert folder.final == won.final
    assert [(one.digest, one.final) for one in network_results(won.directory)] == [(folder.digest, won.final)]

    def read(*arguments):
        raise AssertionError("the test images are read again")

    monkeypatch.setattr(loop, "measure_accuracies", read)
    assert run(experiment(winner=winner_training(), budget=4), won.directory).final == won.final


def test_an_interrupted_winner_training_continues_to_the_same_bits(won, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        study.run(experiment(winner=winner_training(), budget=4), tmp_path / "run", StoppedTraining())
    assert not (tmp_path / "run" / "final" / "final.json").exists()
    again = Distance()
    result = run(experiment(again, winner=winner_training(), budget=4), tmp_path / "run")
    assert again.calls == 0
    names = ("code", "test_accuracy", "validation_accuracy", "steps")
    assert [result.final[name] for name in names] == [won.final[name] for name in names]
    ours, theirs = (folders.open_folder(directory / "final") for directory in (result.directory, won.directory))
    assert ours.metrics.read_bytes() == theirs.metrics.read_bytes()
    like = shapes(NETWORK, RECIPE)
    one, other = (loop.restored(folder, like).state for folder in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)


def test_failed_trials_are_told_as_failed_and_the_search_continues(tmp_path):
    with jax.debug_nans(True):  # for networks of an evaluator: a failed trial is told to the searcher as NaN
        result = run(experiment(Distance(nan=(1, 2)), searcher=lx.LaNAS(SPACE)), tmp_path / "run")
    failed = [trial for trial in result.trials if trial.code[0] in (1, 2)]
    assert 0 < len(failed) < 22
    for trial in result.trials:
        expected = Status.FAILED if trial in failed else Status.DONE
        assert (trial.status, trial.value is None) == (expected, trial in failed)
    assert {trial.reason for trial in failed} == {"loss became NaN at step 7"}
    assert result.best not in failed
    np.testing.assert_array_equal(np.isnan(replay.values_to_tell(result.trials)), [t in failed for t in result.trials])


def test_no_winner_where_every_trial_failed(tmp_path):
    result = run(experiment(Distance(nan=(0, 1, 2, 3))), tmp_path / "run")
    assert len(result.trials) == 22
    assert result.best is None
    assert result.final is None


def test_error_in_the_evaluator_fails_only_the_trial_that_causes_it(tmp_path):
    result = run(experiment(Distance(raising=(0,)), budget=40), tmp_path / "run")
    failed = [trial for trial in result.trials if trial.status == Status.FAILED]
    assert [trial.code[0] == 0 for trial in result.trials] == [trial in failed for trial in result.trials]
    assert failed
    assert failed[0].reason.startswith(
        "the evaluator raised ArithmeticError: this operation cannot be built (test_loop"
    )


def test_evaluator_that_only_raises_stops_the_study_and_keeps_the_batch_pending(tmp_path):
    with pytest.raises(StudyError, match=r"each of the last 8 trials: ArithmeticError: .*The last 4 stay pending"):
        run(experiment(Distance(raising=(0, 1, 2, 3))), tmp_path / "run")
    trials = recorded(tmp_path / "run")
    assert [trial.status for trial in trials] == ["failed"] * 4 + ["pending"] * 4
    result = run(experiment(Distance()), tmp_path / "run")  # mended: the pending batch is evaluated
    assert [trial.status for trial in result.trials] == ["failed"] * 4 + ["done"] * 18


def test_evaluator_must_give_an_outcome_per_code(tmp_path):
    class Short(Distance):
        def evaluate(self, codes, keys):
            return super().evaluate(codes, keys)[1:]

    with pytest.raises(StudyError, match="3 outcomes for 4 codes"):
        run(experiment(Short()), tmp_path / "run")


def test_a_winner_training_that_breaks_stops_the_study_and_has_no_result(tmp_path):
    with pytest.raises(StudyError, match=r"the winner could not be trained: NotFiniteError: the (loss|weights)"):
        run(experiment(winner=winner_training(learning_rate=1e38), budget=4), tmp_path / "run")
    assert not (tmp_path / "run" / "final" / "final.json").exists()
    assert network_results(tmp_path / "run") == []


def test_a_winner_training_that_does_not_fit_is_refused_before_the_search(tmp_path):
    with pytest.raises(ValueError, match="at most the number of training images, 90; got 100"):
        run(experiment(winner=winner_training(batch_size=100)), tmp_path / "run")
    with pytest.raises(discovery.ExperimentError, match=r"final\(...\) raised AttributeError"):
        run(experiment(winner=WinnerTraining(lambda config, settings, code: code.none)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_small_space_ends_the_search(tmp_path):
    space = lx.SearchSpace([lx.Choice("a", "xyz"), lx.Choice("b", "xy")])
    result = run(experiment(searcher=lx.RandomSearch(space)), tmp_path / "run")
    assert result.exhausted
    assert sorted(trial.code for trial in result.trials) == [(a, b) for a in range(3) for b in range(2)]
    again = run(experiment(searcher=lx.RandomSearch(space)), tmp_path / "run")
    assert (again.trials, again.exhausted) == (result.trials, True)


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


# Several of tensorstore's reads fail at once; those that nobody waits for any more complain of a closed event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "how",
    [
        "flip every file",
        "of another run",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("truncate every file", "delete half")),
    ],
)
def test_damaged_checkpoint_is_passed_over(searcher, uninterrupted, tmp_path, how):
    with pytest.raises(KeyboardInterrupt):
        run(experiment(Distance(stop_before=4), searcher=searcher), tmp_path / "run")
    states = tmp_path / "run" / "checkpoint" / "searcher"
    files = [file for file in sorted(states.rglob("*")) if file.is_file()]
    assert files
    if how == "of another run":
        other = experiment(Distance(stop_before=4), searcher=searcher, seed=4)
        with pytest.raises(KeyboardInterrupt):
            run(other, tmp_path / "other")
        shutil.rmtree(states)
        shutil.copytree(tmp_path / "other" / "checkpoint" / "searcher", states)
    for number, file in enumerate(files if how != "of another run" else ()):
        if how == "flip every file":
            damage(file)
        elif how == "truncate every file":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif number % 2:
            file.unlink()
    resumed = run(experiment(searcher=searcher), tmp_path / "run")
    assert essence(resumed.trials) == essence(uninterrupted.trials)


def test_changed_searcher_is_noticed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(experiment(Distance(stop_before=2)), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    before = recorded(tmp_path / "run")
    with pytest.raises(StudyError, match=r"the recorded trials of batch 0 differ .*the same versions"):
        run(experiment(searcher=lx.RegularizedEvolution(SPACE)), tmp_path / "run")
    assert recorded(tmp_path / "run") == before


def test_changed_software_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(experiment(Distance(stop_before=1)), tmp_path / "run")
    with TrialStore.open(tmp_path / "run" / "trials.sqlite") as store:
        for trial in store.trials():
            store._write("REPLACE", dataclasses.replace(trial, code=(0, 0, 0, 0), software={"jax": "0.0.1"}))
    with pytest.raises(RunError, match=r"recorded with other versions \(.*jax 0\.0\.1, now "):
        run(experiment(), tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        (jax.threefry_partitionable, ("False", "jax_threefry_partitionable True, now False")),
        (jax.default_prng_impl, ("rbg", "jax_default_prng_impl threefry2x32, now rbg")),
    ],
)
def test_other_random_numbers_are_recorded_and_named_where_a_run_is_resumed(uninterrupted, tmp_path, setting, changed):
    value, message = changed
    with setting(value if value == "rbg" else False):
        with pytest.raises(RunError, match=rf"started with other random numbers \({message}\)"):
            run(experiment(), uninterrupted.directory)
        here = run_folder.create(tmp_path / "run", experiment())
        assert here.record["software"].items() - software.versions().items() == set()
        assert value in here.record["software"].values()
    assert value not in software.versions().values()
    with pytest.raises(RunError, match=r"started with other random numbers \(jax_\w+ \w+, now \w+\): set JAX_DEFAULT"):
        run(experiment(), tmp_path / "run")


def test_another_experiment_in_the_same_folder_is_refused(uninterrupted):
    with pytest.raises(RunError, match="started with seed 3, not 4"):
        run(experiment(seed=4), uninterrupted.directory)
    with pytest.raises(RunError, match="started with budget 22, not 30"):
        run(experiment(budget=30), uninterrupted.directory)


def test_foreign_trials_file_is_untouched(tmp_path):
    here = run_folder.create(tmp_path / "run", experiment())
    here.trials.unlink()
    with sqlite3.connect(here.trials) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = here.trials.read_bytes()
    with pytest.raises(TrialStoreError, match="another program"):
        run(experiment(), tmp_path / "run")
    assert here.trials.read_bytes() == before


def test_two_processes_cannot_write_to_one_run(tmp_path):
    here = run_folder.create(tmp_path / "run", experiment())
    with run_folder.RUN.lock(here.directory), pytest.raises(RunError, match="in use by another process"):
        run(experiment(), tmp_path / "run")
    assert len(run(experiment(budget=22), tmp_path / "run").trials) == 22


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "budget must be at least 1; got 0"),
        ({"batch": -1}, "batch must be"),
        ({"seed": -1}, "seed must"),
    ],
)
def test_bad_settings_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 7}, "name must be of type str; got 7 of type int"),
        ({"space": None}, "space must be of type SearchSpace; got None"),
        ({"searcher": lx.RandomSearch}, "searcher must be of type Searcher; got <class .* of type type"),
        ({"evaluator": Distance}, "evaluator must be of type Evaluator; got <class "),
        (
            {"space": lx.SearchSpace([lx.Choice("op0", "ab")])},
            "the searcher must search the space .*op1",
        ),
    ],
)
def test_an_experiment_of_other_parts_is_refused(changes, message):
    given = {"name": "x", "space": SPACE, "searcher": lx.RandomSearch(SPACE), "evaluator": Distance()}
    with pytest.raises(ValueError, match=message):
        Experiment(**given | {"budget": 1, "batch": 1, "seed": 0} | changes)


class Preparing(Distance):
    """An evaluator that has to be prepared first, and may refuse."""

    def __init__(self, refusal=None):
        super().__init__()
        self.refusal, self.told = refusal, []

    def prepare(self, directory, note):
        assert self.calls == 0
        self.told.append((directory, len(recorded(directory))))
        note("preparing")
        if self.refusal:
            raise NotPreparedError(self.refusal)

    def evaluate(self, codes, keys):
        assert self.told
        return super().evaluate(codes, keys)


class Notes(Silence):
    def __init__(self):
        self.lines = []

    def began(self, budget, trials):
        self.lines.append("began")

    def note(self, text):
        self.lines.append(text)


def test_an_evaluator_is_prepared_once_before_the_first_trial(tmp_path):
    evaluator, notes = Preparing(), Notes()
    result = study.run(experiment(evaluator), tmp_path / "run", notes)
    assert evaluator.told == [(tmp_path / "run", 0)]
    assert notes.lines == ["preparing", "began"]
    assert essence(result.trials) == essence(run(experiment(), tmp_path / "plain").trials)


def test_an_evaluator_that_cannot_be_prepared_stops_the_study_before_any_trial(tmp_path):
    with pytest.raises(StudyError, match=r"^the supernet has learned nothing$"):
        run(experiment(Preparing("the supernet has learned nothing")), tmp_path / "run")
    assert recorded(tmp_path / "run") == []
    assert len(run(experiment(Preparing()), tmp_path / "run").trials) == 22

"""From a real run directory to its report."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax import report, study
from lanas_jax.evaluators.base import Outcome
from lanas_jax.report.learned_tree import learned_tree
from lanas_jax.searchers import partition
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial import Status
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery, replay, run_folder
from lanas_jax.study.experiment import Silence
from tests.report.page_parser import Page

SOURCE = '''
"""Codes of small integers are good, for a test: no hardware, no time."""

import dataclasses

import lanas_jax as lx
from lanas_jax.evaluators.base import Outcome
from lanas_jax.study import Experiment

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 3
    budget: int = 32
    searcher: str = "lanas"
    note: str = "<i>hostile</i>"


class Small:
    def evaluate(self, codes, keys):
        return [self._outcome(code) for code in codes]

    def _outcome(self, code):
        if code[0] == 3:
            return Outcome(None, "<i>too large</i>")
        return Outcome(1.0 - float(code.sum()) / 12, None, int(10 + code.sum()), 5, 0.25, 0.5)


def build(config):
    searcher = {"lanas": lx.LaNAS, "random": lx.RandomSearch}[config.searcher](SPACE)
    return Experiment("small", SPACE, searcher, Small(), config.budget, 8, config.seed)
'''


def begin(folder: Path, **settings: object) -> tuple[run_folder.Run, study.Experiment]:
    """A run directory in which nothing has been tried yet."""
    source = folder / "small.py"
    source.write_text(SOURCE)
    module = discovery.load_experiment(source)
    config = module.Config(**settings)
    experiment = run_folder.build_experiment(module, config)
    return run_folder.create(folder / "run", experiment, source, config), experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> run_folder.Run:
    here, experiment = begin(tmp_path_factory.mktemp("finished"))
    study.run(experiment, here.directory)
    return here


def test_a_finished_run(finished: run_folder.Run) -> None:
    path = report.write_report(finished.directory)
    assert path == finished.report
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "<i>" not in text
    with TrialStore.open(finished.trials, read_only=True) as store:
        trials = store.trials()
    assert sum(len(cells) == 9 for cells in page.rows) == 1 + len(trials)
    for expected in ("32 of 32", "too large", "<i>hostile</i>", "op0", "The learned tree"):
        assert expected in page.words
    assert page.classes.count("plot") == 3
    assert page.classes.count("region") == page.classes.count("split") + 1 > 1


def test_writing_again_replaces_the_report(finished: run_folder.Run) -> None:
    first = report.write_report(finished.directory).read_text(encoding="utf-8")
    assert report.write_report(finished.directory).read_text(encoding="utf-8") == first
    assert not list(finished.directory.glob("*.partial"))


class Seconds:
    """A clock on which every look takes a second, so that a report takes one."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_running_search_is_reported_now_and_then(finished: run_folder.Run, tmp_path: Path) -> None:
    """The first report when it is expected to take 2 %, here after 50 s, and the next one after as long again."""
    here, experiment = begin(tmp_path, searcher="random")
    with TrialStore.open(finished.trials, read_only=True) as store:
        trials = store.trials()
    clock = Seconds()
    live = report.LiveReport(Silence(), here.directory, experiment, clock)
    live.began(32, [])
    versions = []
    for i, trial in enumerate(trials[:20]):
        live.asked([dataclasses.replace(trial, status=Status.PENDING, value=None, reason=None)])
        clock.now += 6.0
        live.finished([trial])
        text = here.report.read_text(encoding="utf-8") if here.report.exists() else ""
        if text != (versions[-1][1] if versions else ""):
            versions.append((i, text))
    assert [i for i, _ in versions] == [7, 14]
    for i, text in versions:
        assert f"The search is running: {i + 1} of 32 trials are finished." in text
        assert '<meta http-equiv="refresh" content="20">' in text
        assert "The tree is drawn when the search has ended." in text
    ended = report.write_report(here.directory, experiment).read_text(encoding="utf-8")
    assert "http-equiv" not in ended
    assert "The search is running" not in ended


def test_a_report_that_cannot_be_written_stops_no_search(tmp_path: Path) -> None:
    here, experiment = begin(tmp_path, searcher="random", budget=2)
    here.report.mkdir()

    class Notes(Silence):
        def note(self, text: str) -> None:
            noted.append(text)

    noted: list[str] = []
    clock = Seconds()
    live = report.LiveReport(Notes(), here.directory, experiment, clock)
    live.began(2, [])
    clock.now += 60.0
    live.finished([])
    (line,) = noted
    assert line.startswith("the report cannot be written: ")


def test_the_tree_shown_is_the_one_the_search_had(finished: run_folder.Run) -> None:
    """Replaying the tells alone gives the splits that the run's own asks and tells gave."""
    experiment = finished.experiment()
    searcher, key = experiment.searcher, replay.stream_key(experiment.seed, replay.SEARCHER_STREAM)
    with TrialStore.open(finished.trials, read_only=True) as store:
        trials = store.trials()
    state = searcher.init(key)
    for number in range(0, len(trials), 8):
        state, codes = searcher.ask(state, 8)
        batch = trials[number : number + 8]
        assert [tuple(code) for code in np.asarray(codes).tolist()] == [trial.code for trial in batch]
        state = searcher.tell(state, codes, jax.numpy.asarray(replay.values_to_tell(batch)))
    nodes, _ = learned_tree(searcher, 0, trials)
    expected = partition.explain(state.tree, experiment.space.feature_names)
    assert nodes is not None
    assert [(n.node, n.samples, n.drivers) for n in nodes] == [(n.node, n.samples, n.drivers) for n in expected]


def test_means_of_the_tree_are_in_the_units_of_the_values(finished: run_folder.Run) -> None:
    experiment = finished.experiment()
    with TrialStore.open(finished.trials, read_only=True) as store:
        trials = store.trials()
    nodes, _ = learned_tree(experiment.searcher, 0, trials)
    assert nodes is not None
    by_index = {node.node: node for node in nodes}
    values = [trial.value for trial in trials if trial.value is not None]
    assert by_index[0].samples == len(trials)
    assert by_index[0].mean_value == pytest.approx(np.mean(values), rel=1e-6)
    inner = [node for node in nodes if not node.is_leaf]
    assert by_index[0] in inner
    for node in inner:
        good, bad = by_index[2 * node.node + 1], by_index[2 * node.node + 2]
        assert good.samples + bad.samples == node.samples
        assert node.mean_value is not None
        assert good.mean_value is not None
        assert bad.mean_value is not None
        assert bad.mean_value <= node.mean_value <= good.mean_value


def test_too_few_trials_to_split(finished: run_folder.Run) -> None:
    experiment = finished.experiment()
    with TrialStore.open(finished.trials, read_only=True) as store:
        nodes, note = learned_tree(experiment.searcher, 0, store.trials()[:8])
    assert nodes is None
    assert note == "After 8 trials the tree has not split the space yet."


def test_a_searcher_without_a_tree(tmp_path: Path) -> None:
    here, experiment = begin(tmp_path, searcher="random", budget=8)
    study.run(experiment, here.directory)
    page = Page(report.write_report(here.directory).read_text(encoding="utf-8"))
    assert "RandomSearch learns no tree" in page.words
    assert "split" not in page.classes


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    here, _ = begin(tmp_path)
    page = Page(report.write_report(here.directory).read_text(encoding="utf-8"))
    assert "0 of 32 trials are finished" in page.words
    assert "No trial has a value yet, so there is no tree" in page.words


def test_a_run_with_a_pending_batch(tmp_path: Path) -> None:
    here, _ = begin(tmp_path)
    with TrialStore.open(here.trials) as store:
        store.add_pending(0, [(0, 0, 0, 0), (1, 0, 0, 0)], ["00", "01"], {"jax": "0"})
    page = Page(report.write_report(here.directory).read_text(encoding="utf-8"))
    assert "2 pending" in page.words
    assert page.row_classes.count("pending") == 2


def test_only_failures(tmp_path: Path) -> None:
    here, _ = begin(tmp_path)
    with TrialStore.open(here.trials) as store:
        store.add_pending(0, [(3, 0, 0, 0)], ["00"], {})
        store.finish([0], [Outcome(None, "out of memory")], {}, 0.0)
        assert store.trials()[0].status == Status.FAILED
    page = Page(report.write_report(here.directory).read_text(encoding="utf-8"))
    assert "out of memory" in page.words
    assert "No trial has a value" in page.words


def test_a_run_started_from_python_needs_its_experiment(tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text(SOURCE)
    module = discovery.load_experiment(source)
    experiment = run_folder.build_experiment(module, module.Config(budget=4, searcher="random"))
    study.run(experiment, tmp_path / "run")
    with pytest.raises(RunError, match="started from Python"):
        report.write_report(tmp_path / "run")
    page = Page(report.write_report(tmp_path / "run", experiment).read_text(encoding="utf-8"))
    assert "4 of 4" in page.words


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="contains no run"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@dataclasses.dataclass(frozen=True)
class Ahead:
    """An evaluator whose supernet is in a folder."""

    supernet_directory: Path

    def evaluate(self, codes, keys):
        raise AssertionError

    def train(self, directory, note, preemption=None):
        raise AssertionError


def test_accuracies_of_a_supernet_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    here, experiment = begin(tmp_path)
    shown = []
    for text in (
        None,
        "step,epoch,loss\n1,1,0.5\n",
        "step,epoch,loss,largest_accuracy\n1,1,0.5,\n2,1,0.4,0.25\n3,2,0.4",
        "step,epoch,loss,largest_accuracy\n1,1,0.5\n2,1,0.4,0.25\n",  # damaged
        "step,epoch,loss,largest_accuracy\n1,1,x,0.25\n",
        "",
    ):
        if text is not None:
            (tmp_path / "metrics.csv").write_text(text)
        path = report.write_report(here.directory, dataclasses.replace(experiment, evaluator=Ahead(tmp_path)), [])
        shown.append("The supernet" in path.read_text())
    assert shown == [False, False, True, False, False, False]

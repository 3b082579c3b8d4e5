"""Text of users is printed as it is: brackets, emoji codes and dollar signs are no markup."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from lanas_jax.cli import main
from lanas_jax.commands import summary, tables
from lanas_jax.report.learned_tree import drawing
from lanas_jax.runtime.console import terminal
from lanas_jax.searchers.partition import NodeSummary
from lanas_jax.study.display import StudyDisplay
from lanas_jax.trainer.display import TrainingDisplay
from tests.refusals import refused
from tests.report.made_up_run import trial

# Where a checkpoint cannot be read, reads of tensorstore that nobody waits for complain of a closed event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ROOT = Path(__file__).parents[2]
TEXTS = ("expected [batch, n], got [/tmp/x]", "[bold]all[/bold] :smile: [batch]", "[/]", "$x_{$ \\[n] 100%")
EXPERIMENT = '''"""A search whose every text has [brackets] and [/closed] ones."""
import dataclasses
import lanas_jax as lx
from lanas_jax.study import Experiment

TEXTS = {texts}

@dataclasses.dataclass(frozen=True)
class Config:
    """Settings [batch] of [/tmp/x]."""

    folder: str = "[/tmp/x]"
    """Where [batch, n] is, [/bold] :smile: 100% of it."""

class Evaluator:
    def prepare(self, directory, note):
        for text in TEXTS:
            note(text)

    def evaluate(self, codes, keys):
        if (codes[:, 0] == 4).any():
            raise ValueError("[/raised] of [batch]")
        return [lx.Outcome(None, TEXTS[c]) if c < 4 else lx.Outcome(0.5) for c in codes[:, 0].tolist()]

def build(config):
    space = lx.SearchSpace([lx.Choice("[/op]", ["[conv]", "[/skip]", "[b]", ":smile:", "[4]", "[5]"])])
    return Experiment("[/name] [n]", space, lx.RandomSearch(space), Evaluator(), 6, 1, 0)
'''


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("[archive]") / "[/tmp]"
    folder.mkdir(parents=True)
    file = folder / "[net]:smile:.py"
    file.write_text(EXPERIMENT.format(texts=TEXTS))
    return file


@pytest.fixture(scope="module")
def run(experiment):
    """A run in a folder with brackets in its name, and what its search printed."""
    out, printed = experiment.parent / "[run] :smile:", io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        assert main(["search", str(experiment), "--out", str(out)]) == 0
    return out, printed.getvalue()


def words(text):
    """The text without line breaks, frames of tables and repeated spaces."""
    return re.sub(r"[\s│┃╭╮╰╯─]+", " ", text)


def test_a_search_prints_names_paths_and_notes_as_they_are(run):
    out, printed = run
    assert f"[/name] [n]: 6 trials, in {out}\n" in printed
    assert printed.endswith(f"report: {out / 'report.html'}\n")
    for text in TEXTS:
        assert f"\n{text}\n" in printed


def test_commands_on_a_run_print_reasons_and_paths_as_they_are(run, capsys):
    out, _ = run
    assert main(["trials", str(out)]) == 0
    printed = words(capsys.readouterr().out)
    for text in (*TEXTS, "the evaluator raised ValueError: [/raised] of [batch]"):
        assert text in printed
    assert main(["trials", str(out), "--csv"]) == 0
    assert all(text in capsys.readouterr().out for text in TEXTS[:1])
    assert main(["resume", str(out)]) == 0
    assert f"in {out}\n" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert main(["describe", str(out), "--code", "1"]) == 0
    assert "[/skip]" in capsys.readouterr().out


def test_help_and_refusals_print_settings_and_paths_as_they_are(experiment, run, capsys):
    with pytest.raises(SystemExit):
        main(["search", str(experiment), "--help"])
    printed = words(capsys.readouterr().out)
    assert "A search whose every text has [brackets] and [/closed] ones." in printed
    assert "Where [batch, n] is, [/bold] :smile: 100% of it." in printed
    assert "[/tmp/x]" in printed
    assert str(run[0]) in refused(capsys, "search", experiment, "--out", run[0])
    assert "there is no file [/x].py" in refused(capsys, "search", "[/x].py")
    assert "[/wrong]" in refused(capsys, "search", experiment, "--[/wrong]", "[batch]")
    assert "[/x]" in refused(capsys, "trials", "[/x]")
    assert "x[/a]x" in refused(capsys, "describe", run[0], "--code", "x[/a]x")
    assert "[/t]" in refused(capsys, "compare", "[/t]")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("display", [StudyDisplay, TrainingDisplay])
def test_displays_print_notes_as_they_are_on_any_console(display, text):
    for is_terminal in (True, False):
        screen = io.StringIO()
        with display(Console(file=screen, force_terminal=is_terminal, width=30)) as shown:
            shown.note(text)
        assert text in screen.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_a_quiet_console_prints_nothing_and_fails_at_nothing(text, capsys):
    terminal(quiet=True).print(text)
    terminal(stderr=True).print(text)
    assert capsys.readouterr() == ("", f"{text}\n")


def test_the_summary_of_a_search_without_a_result_prints_its_last_reason_as_it_is(capsys):
    for text in TEXTS:
        summary.show_result(terminal(), None, [trial(0, reason=text)], None)
        assert f"reason of the last failure: {text}\n" in capsys.readouterr().out


def test_a_drawn_tree_names_features_as_they_are(capsys):
    for text in TEXTS:
        terminal().print(drawing([NodeSummary(0, 0, 4, 0.5, True, ((text, 1.0),))]))
        assert f"to the good side: {text} (+1.00)" in capsys.readouterr().out


def test_reading_official_files_shows_their_path_as_it_is(tmp_path, monkeypatch):
    source, shown = tmp_path / "[batch] [bold] :smile:.npz", []
    np.savez(source, codes=np.zeros((1, 1), np.int32))
    console = Console(file=io.StringIO(), force_terminal=True, width=400)
    monkeypatch.setattr(console, "status", lambda status: shown.append(status) or Console(quiet=True).status(status))
    with pytest.raises(ValueError, match=re.escape(str(source))):
        tables.write_converted(console, source, tmp_path / "out.npz", None)
    assert [str(text) for text in shown] == [f"reading {source}"]
    assert isinstance(shown[0], Text)  # a status takes a string for markup, whatever the console's settings are


def test_only_one_function_makes_consoles():
    """A console of rich takes brackets for markup unless told otherwise; so do the bars of `lanas compare`."""
    makers = {
        str(file.relative_to(ROOT))
        for folder in ("lanas_jax", "models", "experiments")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"\bConsole\(|from rich import|import rich|from_markup|\bProgress\(", file.read_text())
    }
    assert makers == {"lanas_jax/runtime/console.py", "lanas_jax/commands/compare.py"}

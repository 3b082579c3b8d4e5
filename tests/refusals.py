"""Commands that are refused."""

from lanas_jax.cli import main


def refused(capsys, *arguments, code=2):
    """The message of a command that is refused, after checking that it is nothing but a message."""
    try:
        returned = main(list(map(str, arguments)))
    except SystemExit as error:
        returned = error.code
    captured = capsys.readouterr()
    assert returned == code
    assert "Traceback" not in captured.err
    return captured.err

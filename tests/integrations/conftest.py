"""Databases that tests open through Optuna are closed after each test."""

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _closed_databases():
    """Closes what SQLAlchemy keeps open until its engines are collected: Python 3.13 warns of that in a later test."""
    if importlib.util.find_spec("sqlalchemy") is None:
        yield
        return
    import sqlalchemy

    opened = []

    def note(connection, record):
        opened.append(connection)

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", note)
    yield
    sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", note)
    for connection in opened:
        connection.close()

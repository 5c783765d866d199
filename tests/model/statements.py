"""What an app's transactions do, as SQL: the same for the same dice."""

from __future__ import annotations

from random import Random

__all__ = ["KINDS", "make_statements"]

_ROWS = 60
_BLOB_BYTES_MAX = 3000


def make_statements(kind: str, dice: Random, number: int) -> list[str]:
    """Return the statements of one transaction, without its beginning and end."""
    return [f"update meta set n = {number}", *KINDS[kind](dice)]


def _few(dice: Random) -> list[str]:
    return [_insert(dice) if dice.random() < 0.5 else _replace(dice) for _ in range(dice.randint(1, 4))]


def _many(dice: Random) -> list[str]:
    """More pages than a small cache holds, so that they are written to the log before the commit."""
    return [_insert(dice) for _ in range(dice.randint(20, 60))]


def _blob(dice: Random) -> list[str]:
    return [f"insert into t(k, v) values(0, blob({dice.randrange(1 << 40)}, {dice.randint(20_000, 120_000)}))"]


def _savepoints(dice: Random) -> list[str]:
    before, inside, behind = _few(dice), _many(dice), _few(dice)
    return [*before, "savepoint inner", *inside, "rollback to inner", "release inner", *behind]


def _delete(dice: Random) -> list[str]:
    return [f"delete from t where id % {dice.randint(2, 5)} = {dice.randrange(2)}"]


def _tables(dice: Random) -> list[str]:
    name = f"extra{dice.randrange(3)}"
    if dice.random() < 0.4:
        return [f"drop table if exists {name}"]
    return [f"create table if not exists {name} as select id, k from t where id % 3 = {dice.randrange(3)}"]


def _nothing(_dice: Random) -> list[str]:
    return []


def _insert(dice: Random) -> str:
    return f"insert into t(k, v) values({dice.randrange(99)}, blob({dice.randrange(1 << 40)}, {_size(dice)}))"


def _replace(dice: Random) -> str:
    row = dice.randrange(1, _ROWS)
    return f"insert or replace into t(id, k, v) values({row}, {row}, blob({dice.randrange(1 << 40)}, {_size(dice)}))"


def _size(dice: Random) -> int:
    return dice.randrange(_BLOB_BYTES_MAX)


KINDS = {
    "few": _few,
    "many": _many,
    "blob": _blob,
    "savepoints": _savepoints,
    "delete": _delete,
    "tables": _tables,
    "nothing": _nothing,
}

"""Whatever stands in `walrep.toml`, the answer is settings or an error of ours."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from walrep.config import Overrides, load_settings
from walrep.config_file import ConfigFile, DatabaseTable, RetentionTable
from walrep.errors import UsageError
from walrep.store.s3_url import S3Access

QUICK = settings(deadline=None, max_examples=150)

SCALARS = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.floats().map(lambda value: f"{value!r}"),
    st.sampled_from(['"10s"', '"1GiB"', '"-1d"', '"99999999999999999999d"', '"03:00"', '"file:///backup"', '"s3://b"']),
    st.text(st.characters(exclude_characters="'", exclude_categories=("Cc", "Cs")), max_size=20).map("'{}'".format),
    st.sampled_from(["1979-05-27", "07:32:00", "[]", "{}", "[1, [2]]", "{ a = { b = 1 } }"]),
)


def keys_of(kind: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def lines_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[str]:
    """Return lines that set some keys of a table to something."""
    pairs = st.dictionaries(st.sampled_from(keys_of(kind)), SCALARS, max_size=4)
    return pairs.map(lambda chosen: "\n".join(f"{key} = {value}" for key, value in chosen.items()))


def load(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walrep.toml"
        file.write_bytes(data)
        with suppress(UsageError):
            load_settings(file, Overrides(), {})


@QUICK
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_anything(data: bytes) -> None:
    load(data)


@QUICK
@given(st.tuples(lines_of(ConfigFile), lines_of(RetentionTable), lines_of(S3Access), lines_of(DatabaseTable)))
def test_every_key_with_anything(lines: tuple[str, str, str, str]) -> None:
    top, retention, s3, database = lines
    fixed = 'path = "/srv/app.db"\nreplica = "file:///backup"\n'
    keys = {line.split(" = ")[0] for line in database.splitlines()}
    fixed = "\n".join(line for line in fixed.splitlines() if line.split(" = ")[0] not in keys)
    load(f"{top}\n[retention]\n{retention}\n[s3]\n{s3}\n[[database]]\n{fixed}\n{database}\n".encode())


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "walrep.toml"
    file.write_text("x = " + "[" * 100_000)
    with pytest.raises(UsageError, match="not TOML"):
        load_settings(file, Overrides(), {})

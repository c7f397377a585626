"""The rules for keys hold for whatever text comes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.errors import InvalidRequest, PermanentError, TransientError
from coin_hts_pipelines.storage.object_store import check_key, os_errors

ROOT = Path("/root/of/a/store")


@given(st.text(st.sampled_from("ab./\\~\n\0 한") | st.characters(), max_size=12))
def test_a_key_is_refused_or_lies_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except InvalidRequest:
        return
    path = ROOT / key
    assert Path(os.path.normpath(path)) == path
    assert path.is_relative_to(ROOT)
    assert path != ROOT
    assert path.relative_to(ROOT).as_posix() == key
    assert key.isprintable()


@given(st.lists(st.text("abcXYZ019-_=. ", min_size=1, max_size=20), min_size=1, max_size=6))
def test_plain_keys_are_accepted(parts: list[str]) -> None:
    plain = [part if part.strip(".") else "x" for part in parts]
    assert check_key("/".join(plain)) == "/".join(plain)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, TransientError),
        (errno.EDQUOT, TransientError),
        (errno.EIO, TransientError),
        (errno.EACCES, PermanentError),
        (errno.EROFS, PermanentError),
        (errno.ENOTDIR, PermanentError),
        (errno.ENAMETOOLONG, PermanentError),
    ],
)
def test_errors_of_the_operating_system_are_classed(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"could not do this: {os.strerror(number)}"), os_errors("do this"):
        raise OSError(number, os.strerror(number))

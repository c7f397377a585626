import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines import InvalidRequest
from coin_hts_pipelines.market import normalize_symbol


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("KRW-BTC", "KRW-BTC"),
        ("krw-btc", "KRW-BTC"),
        ("BTC_KRW", "KRW-BTC"),
        ("btc/krw", "KRW-BTC"),
        ("BTC-KRW", "BTC-KRW"),
        ("USDT-1INCH", "USDT-1INCH"),
        ("1000BTT_USDT", "USDT-1000BTT"),
        ("USDT-W", "USDT-W"),
    ],
)
def test_accepted_spellings(text, symbol):
    assert normalize_symbol(text) == symbol


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BTC",
        "KRW-",
        "-BTC",
        "K-BTC",
        "KRW-BTC-1",
        "KRW-BTC_1",
        "BTC_KRW_X",
        "../KRW-BTC",
        "KRW-BTC/..",
        "..",
        "KRW.BTC",
        " KRW-BTC",
        "KRW-BTC\n",
        "KRW BTC",
        "KRW-\u0130",
        "KRW-\uff22TC",
        "A" * 13 + "-BTC",
        "KRW-" + "A" * 21,
        "KRW-BTC\0",
    ],
)
def test_refused_spellings_are_named(text):
    with pytest.raises(InvalidRequest, match="accepted forms") as caught:
        normalize_symbol(text)
    assert repr(text[:80]) in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"KRW-BTC", ["KRW-BTC"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(InvalidRequest, match="not text"):
        normalize_symbol(value)


@given(st.from_regex(r"[A-Za-z0-9]{2,12}-[A-Za-z0-9]{2,12}", fullmatch=True))
def test_canonical_form_is_a_fixed_point_of_every_spelling(text):
    symbol = normalize_symbol(text)
    quote, base = symbol.split("-")
    assert normalize_symbol(symbol) == symbol == text.upper()
    assert normalize_symbol(f"{base}_{quote}") == normalize_symbol(f"{base.lower()}/{quote}") == symbol

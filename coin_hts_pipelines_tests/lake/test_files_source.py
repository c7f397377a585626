import json
import os
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coin_hts_pipelines import InvalidCandles, NoCandles
from coin_hts_pipelines.lake import CandleStore, is_synthetic
from coin_hts_pipelines.lake.sources import FilesSource
from coin_hts_pipelines.market import Span, Timeframe, empty_candles, parse_span
from coin_hts_pipelines_tests.lake.helpers import SHARED_DATA, candles, needs_shared_data

D1, H1 = Timeframe.D1, Timeframe.H1
ALWAYS = Span()
DAYS = candles(800, start="2023-06-01")  # to 2025-08-08


def put(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        zoned = pd.api.types.is_datetime64_any_dtype(frame.iloc[:, 0].dtype)
        frame.to_csv(path, index=False, date_format="%Y-%m-%dT%H:%M:%SZ" if zoned else None)
    else:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    return path


def same(source, frame, symbol="KRW-BTC", timeframe=D1, span=ALWAYS):
    pd.testing.assert_frame_equal(source.fetch(symbol, timeframe, span), frame, check_exact=True)


# ---- what a folder holds


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_folder_in_the_layout_of_the_store(tmp_path, ending):
    for year, part in DAYS.groupby(DAYS["timestamp"].dt.year):
        put(tmp_path / f"KRW-BTC/1D/{year}.{ending}", part)
    put(tmp_path / f"KRW-BTC/1H/2024.{ending}", candles(50, timeframe="1H"))
    put(tmp_path / f"indicators/KRW-XRP/1D/2024.{ending}", DAYS)
    source = FilesSource(tmp_path)
    assert source.symbols() == ["KRW-BTC"]
    assert source.timeframes("btc_krw") == [H1, D1]
    assert source.problems == []
    assert source.years("KRW-BTC", D1, Span()) == [2023, 2024, 2025]
    assert source.years("KRW-BTC", D1, parse_span("2024-02-01", "2025-01-01")) == [2024, 2025]
    assert source.years("KRW-BTC", D1, parse_span("2026-01-02", None)) == []
    same(source, DAYS)
    asked = Span(datetime(2024, 12, 1, tzinfo=UTC), datetime(2025, 1, 10, tzinfo=UTC))
    inside = DAYS[(DAYS["timestamp"] >= asked.start) & (DAYS["timestamp"] < asked.end)].reset_index(drop=True)
    same(source, inside, span=asked)
    same(source, empty_candles(), span=Span(datetime(2026, 1, 1, tzinfo=UTC), None))
    assert not is_synthetic(source.name)
    assert not source.synthetic


def test_parquet_statistics_tell_the_years_of_a_span(tmp_path):
    put(tmp_path / "KRW-BTC/1D/2024.parquet", candles(10, start="2024-05-01"))
    put(tmp_path / "KRW-ETH-1D.parquet", DAYS)
    source = FilesSource(tmp_path)
    assert source.years("KRW-BTC", D1, parse_span("2024-06-01", None)) == []
    assert source.years("KRW-ETH", D1, Span()) == [2023, 2024, 2025]


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe"),
    [
        ("KRW-BTC_1H.csv", "KRW-BTC", "1H"),
        ("KRW-BTC-1H-2024.parquet", "KRW-BTC", "1H"),
        ("BTC_KRW_1h.csv", "KRW-BTC", "1H"),
        ("krw-btc 1h.parquet", "KRW-BTC", "1H"),
        ("deep/er/USDT-1INCH.1h.part2.csv", "USDT-1INCH", "1H"),
        ("KRW-BTC/1H/2024.CSV", "KRW-BTC", "1H"),
    ],
)
def test_names(tmp_path, name, symbol, timeframe):
    frame = candles(5, timeframe=timeframe)
    path = put(tmp_path / name, frame)
    for source in (FilesSource(tmp_path), FilesSource(path), FilesSource(str(path))):
        assert source.symbols() == [symbol]
        same(source, frame, symbol, Timeframe(timeframe))


def test_one_file_with_symbol_and_timeframe_given(tmp_path):
    path = put(tmp_path / "export.csv", DAYS)
    with pytest.raises(
        InvalidCandles, match=r"export.csv: neither name nor content says .* name it like KRW-BTC_1H.csv"
    ):
        FilesSource(path).symbols()
    same(FilesSource(path, symbol="btc/krw", timeframe="1d"), DAYS)
    over = put(tmp_path / "KRW-ETH_1H.csv", DAYS)
    same(FilesSource(over, symbol="KRW-BTC", timeframe="1D"), DAYS)


def test_a_folder_with_symbol_and_timeframe_given(tmp_path):
    put(tmp_path / "part1.csv", DAYS.iloc[:10])
    put(tmp_path / "KRW-BTC.csv", DAYS.iloc[10:20])
    put(tmp_path / "KRW-ETH_1D.csv", DAYS.iloc[20:])
    source = FilesSource(tmp_path, symbol="KRW-BTC", timeframe="1D")
    assert source.symbols() == ["KRW-BTC"]
    same(source, DAYS.iloc[:20])


def test_files_of_one_series_are_put_together_and_the_later_name_wins(tmp_path):
    put(tmp_path / "KRW-BTC-1D-b.csv", DAYS.iloc[5:20].assign(volume=2.0))
    put(tmp_path / "KRW-BTC-1D-a.parquet", DAYS.iloc[:10].assign(volume=1.0))
    put(tmp_path / "KRW-BTC-1D-c.csv", DAYS.iloc[19:25].assign(volume=3.0))
    volume = [1.0] * 5 + [2.0] * 14 + [3.0] * 6
    same(FilesSource(tmp_path), DAYS.iloc[:25].assign(volume=volume))


def test_unfinished_bars_are_dropped(tmp_path):
    path = put(tmp_path / "KRW-BTC_1D.csv", candles(10))
    same(FilesSource(path, now=datetime(2024, 1, 10, 23, 59, tzinfo=UTC)), candles(9))


@pytest.mark.parametrize("symbol", ["KRW-ETH", "KRW-BTC"])
def test_what_it_has_not_is_named(tmp_path, symbol):
    put(tmp_path / "KRW-BTC_1D.csv", DAYS)
    for call in (FilesSource(tmp_path).fetch, FilesSource(tmp_path).years):
        with pytest.raises(NoCandles, match=f"no 1H candles of {symbol} in .*; it has KRW-BTC 1D"):
            call(symbol, H1, Span())


def test_nothing_usable(tmp_path):
    with pytest.raises(NoCandles, match="does not exist"):
        FilesSource(tmp_path / "nowhere").symbols()
    (tmp_path / "KRW-BTC_1D.txt").touch()
    (tmp_path / ".hidden").mkdir()
    put(tmp_path / ".hidden/KRW-BTC_1D.csv", DAYS)
    with pytest.raises(NoCandles, match="holds no candle files"):
        FilesSource(tmp_path).symbols()
    with pytest.raises(InvalidCandles, match=r"is none of .parquet, .csv, .json"):
        FilesSource(tmp_path / "KRW-BTC_1D.txt").symbols()
    put(tmp_path / "notes.csv", DAYS)
    with pytest.raises(NoCandles, match=r"notes.csv: neither name nor content"):
        FilesSource(tmp_path).symbols()


# ---- columns and times


def named(**columns):
    """Five daily bars under other column names."""
    frame = candles(5, value=True)
    return pd.DataFrame({name: frame[column] for name, column in columns.items()})


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        {"Date": "timestamp", "Open": "open", "High": "high", "Low": "low", "Close": "close", "Vol": "volume"},
        {"ts": "timestamp", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "turnover": "value"},
        {
            "Open Time": "timestamp", "open": "open", "high": "high", "low": "low", "close": "close",
            "volume": "volume", "Quote asset volume": "value", "close time": "timestamp",
        },
        {
            "candle_date_time_utc": "timestamp", "opening_price": "open", "high_price": "high", "low_price": "low",
            "trade_price": "close", "candle_acc_trade_volume": "volume", "candle_acc_trade_price": "value",
        },
    ],
)  # fmt: skip
def test_column_names(tmp_path, columns, ending):
    path = put(tmp_path / f"KRW-BTC_1D.{ending}", named(**columns))
    kept = candles(5, value="value" in columns.values())
    same(FilesSource(path), kept)


def at(times, name="timestamp"):
    frame = candles(5)
    return frame.assign(timestamp=times).rename(columns={"timestamp": name})


SECONDS = candles(5)["timestamp"].astype(np.int64).to_numpy() // 1_000_000
TEXT = candles(5)["timestamp"].dt.strftime("%Y-%m-%d %H:%M:%S").tolist()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "name"),
    [
        (SECONDS, "timestamp"),
        (SECONDS * 1_000, "ts"),
        (SECONDS * 1_000_000, "open_time"),
        (SECONDS * 1_000_000_000, "time"),
        (SECONDS.astype(float), "timestamp"),
        ([f"{text}Z" for text in TEXT], "timestamp"),
        ([f"{text}+00:00" for text in TEXT], "date"),
        ([text.replace(" 00:", "T09:") + "+0900" for text in TEXT], "date"),
        ([f"{text} UTC" for text in TEXT], "date"),
        (TEXT, "time_utc"),
        ([text[:10] for text in TEXT], "date_utc"),
    ],
)
def test_times(tmp_path, times, name, ending):
    path = put(tmp_path / f"KRW-BTC_1D.{ending}", at(times, name))
    source = FilesSource(path)
    assert source.years("KRW-BTC", D1, Span()) == [2024]
    same(source, candles(5))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "rule"),
    [
        (TEXT, "name no zone: 5 rows, first '2024-01-01 00:00:00'; accepted: ISO times with a zone"),
        ([text[:10] for text in TEXT], "name no zone"),
        ([TEXT[0], *(f"{text}Z" for text in TEXT[1:])], "name no zone: 1 rows"),
        (["2024-13-01T00:00:00Z"] * 5, "cannot be read"),
        (["yesterday"] * 5, "first 'yesterday'"),
        ([20240101, 20240102, 20240103, 20240104, 20240105], "not epoch seconds or milliseconds since 2009"),
        ([*SECONDS[:4], SECONDS[4] * 1000], "not epoch seconds"),
        ([*SECONDS[:4], np.nan], "no time in 1 rows"),
        ([True] * 5, "cannot be read"),
    ],
)
def test_times_that_would_have_to_be_guessed_are_refused(tmp_path, times, rule, ending):
    path = put(tmp_path / f"KRW-BTC_1D.{ending}", at(times))
    for call in (FilesSource(path).fetch, FilesSource(path).years):
        with pytest.raises(InvalidCandles) as caught:
            call("KRW-BTC", D1, Span())
        assert str(path) in str(caught.value)
        assert rule in str(caught.value)


def test_naive_parquet_times_need_a_utc_name(tmp_path):
    naive = candles(5)["timestamp"].dt.tz_localize(None)
    with pytest.raises(InvalidCandles, match="naive"):
        FilesSource(put(tmp_path / "KRW-BTC_1D.parquet", at(naive))).fetch("KRW-BTC", D1, Span())
    same(FilesSource(put(tmp_path / "KRW-ETH_1D.parquet", at(naive, "time_utc"))), candles(5), "KRW-ETH")


def test_numbers_of_a_csv_are_read_exactly(tmp_path):
    frame = candles(500, seed=3)
    same(FilesSource(put(tmp_path / "KRW-BTC_1D.csv", frame)), frame)


# ---- broken files


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("frame", "rules"),
    [
        (candles(5).drop(columns=["close", "volume"]), ["missing columns: close, volume"]),
        (candles(5).drop(columns="timestamp"), ["no column of open times"]),
        (candles(5).assign(close=["1", "2", "x", "4", "5"]), ["column 'close' has type str"]),
        (candles(5).assign(open=[1, 2, None, 4, 5]), ["open is not a finite number: 1 row (2024-01-03T00:00:00Z)"]),
        (candles(5).assign(high=np.inf), ["high is not a finite number: 5 rows"]),
        (candles(5).assign(low=0.0, volume=-1.0), ["low is not above 0: 5 rows", "volume is negative: 5 rows"]),
        (candles(5).assign(low=-1.0), ["low is not above 0: 5 rows"]),
        (candles(5).iloc[[0, 1, 1, 2]], ["duplicated or unsorted): 1 row (2024-01-02"]),
        (candles(5).iloc[::-1], ["duplicated or unsorted): 4 rows"]),
        (candles(5, start="2023-12-30"), ["timestamp is not in the year 2024: 2 rows (2023-12-30"]),
        (candles(5, start="2023-02-01"), ["timestamp is not in the year 2024: 5 rows"]),
        (candles(5, timeframe="4H"), ["not on the 1D grid"]),
        (candles(5).iloc[:0], ["empty"]),
    ],
)
def test_every_broken_rule_is_named_with_the_file(tmp_path, frame, rules, ending):
    put(tmp_path / f"KRW-BTC/1D/2023.{ending}", candles(5, start="2023-01-01"))
    bad = put(tmp_path / f"KRW-BTC/1D/2024.{ending}", frame)
    put(tmp_path / f"KRW-ETH/1D/2024.{ending}", candles(5))
    source = FilesSource(tmp_path)
    assert source.symbols() == ["KRW-BTC", "KRW-ETH"]
    assert source.years("KRW-BTC", D1, Span()) == [2023, 2024]
    of_2024 = Span(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    for span in (of_2024, Span()):
        with pytest.raises(InvalidCandles) as caught:
            source.fetch("KRW-BTC", D1, span)
        assert str(bad) in str(caught.value)
        for rule in rules:
            assert rule in str(caught.value)
    same(source, candles(5, start="2023-01-01"), span=Span(None, of_2024.start))
    same(source, candles(5), "KRW-ETH")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("2024.parquet", b""),
        ("2024.parquet", b"PAR1 and so on"),
        ("2024.csv", b""),
        ("2024.csv", b"timestamp,open\n2024-01-01T00:00:00Z,1\n1,2,3,4\n"),
        ("2024.csv", b"timestamp,open,high,low,close,volume\n\xff\xfe\x00,1,1,1,1,1\n"),
        ("2024.csv", b"timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,1,1\n"),
    ],
)
def test_damaged_files(tmp_path, name, content):
    path = tmp_path / "KRW-BTC/1D" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    put(tmp_path / "KRW-ETH_1D.csv", DAYS)
    source = FilesSource(tmp_path)
    assert source.years("KRW-BTC", D1, Span()) == [2024]
    with pytest.raises(InvalidCandles, match=name):
        source.fetch("KRW-BTC", D1, Span())
    same(source, DAYS, "KRW-ETH")


def test_torn_parquet(tmp_path):
    path = put(tmp_path / "KRW-BTC-1D.parquet", DAYS)
    os.truncate(path, path.stat().st_size // 2)
    put(tmp_path / "KRW-ETH-1D.parquet", DAYS)
    source = FilesSource(tmp_path)
    assert source.symbols() == ["KRW-BTC", "KRW-ETH"]
    for call in (source.fetch, source.years):
        with pytest.raises(InvalidCandles, match=r"KRW-BTC-1D.parquet: cannot be read"):
            call("KRW-BTC", D1, Span())
    assert source.years("KRW-ETH", D1, Span()) == [2023, 2024, 2025]


def test_all_broken_files_of_a_series_are_named_at_once(tmp_path):
    for year in (2022, 2023):
        put(tmp_path / f"KRW-BTC/1D/{year}.csv", candles(3, start=f"{year}-01-01").assign(low=0.0))
    with pytest.raises(InvalidCandles) as caught:
        FilesSource(tmp_path).fetch("KRW-BTC", D1, Span())
    assert "2022.csv" in str(caught.value)
    assert "2023.csv" in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_files_that_are_too_large_are_refused_unread(tmp_path, ending):
    path = tmp_path / f"KRW-BTC_1D.{ending}"
    path.touch()
    os.truncate(path, 200 * 2**20 + 1)
    with pytest.raises(InvalidCandles, match=rf"{ending}: 200 MiB is more than the 200 MiB .* split it by year"):
        FilesSource(path).fetch("KRW-BTC", D1, Span())


# ---- recorded answers of Upbit


def upbit(bars, **more):
    return [
        {
            "market": "KRW-BTC",
            "candle_date_time_utc": row.timestamp.strftime("%Y-%m-%dT%H:%M:%S"),
            "candle_date_time_kst": "ignored",
            "opening_price": row.open,
            "high_price": row.high,
            "low_price": row.low,
            "trade_price": row.close,
            "timestamp": 1,
            "candle_acc_trade_price": row.value,
            "candle_acc_trade_volume": row.volume,
            **more,
        }
        for row in bars.iloc[::-1].itertuples()
    ]


def put_json(path, body):
    path.write_text(json.dumps(body))
    return path


@pytest.mark.parametrize(
    ("timeframe", "more", "start"),
    [
        ("1M", {"unit": 1}, "2024-01-01"),
        ("1H", {"unit": 60}, "2024-01-01"),
        ("4H", {"unit": 240}, "2024-01-01"),
        ("1D", {"prev_closing_price": 1.0}, "2024-01-01"),
        ("1W", {"first_day_of_period": "2024-01-01"}, "2024-01-01"),
    ],
)
def test_upbit_answers_say_what_they_are(tmp_path, timeframe, more, start):
    frame = candles(6, timeframe=timeframe, start=start, value=True)
    put_json(tmp_path / "b.json", upbit(frame.iloc[:4], **more))
    put_json(tmp_path / "a.json", upbit(frame.iloc[4:], **more))
    source = FilesSource(tmp_path)
    assert source.timeframes("KRW-BTC") == [Timeframe(timeframe)]
    assert source.years("KRW-BTC", Timeframe(timeframe), Span()) == [2024]
    same(source, frame, timeframe=Timeframe(timeframe))
    single = put_json(tmp_path / "single.json", upbit(frame.iloc[:1], **more)[0])
    same(FilesSource(single), frame.iloc[:1], timeframe=Timeframe(timeframe))


ITEM = upbit(candles(1, value=True), unit=60)[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            {"error": {"name": 404, "message": "Code not found"}},
            "an error answer of the exchange, not candles: .*Code not found",
        ),
        ([], "no candles in it"),
        ([1, 2], "no candles in it"),
        ("text", "no candles in it"),
        ([{}], "not Upbit candles"),
        ([ITEM | {"unit": 7}], "not Upbit candles"),
        ([ITEM, ITEM | {"market": "KRW-ETH"}], "several markets"),
        ([ITEM, ITEM | {"unit": 5}], "several markets or timeframes"),
        ([ITEM | {"market": "../x"}], "symbol '../x' is not valid"),
        ([ITEM | {"market": ["KRW-BTC"]}], "symbol .* is not valid"),
        ([{"unit": 60}], "symbol 'None' is not valid"),
    ],
)
def test_json_that_is_no_candles(tmp_path, body, reason):
    path = put_json(tmp_path / "answer.json", body)
    with pytest.raises(InvalidCandles, match=f"answer.json: .*{reason}"):
        FilesSource(path).symbols()
    put(tmp_path / "KRW-ETH_1D.csv", DAYS)
    source = FilesSource(tmp_path)
    assert source.symbols() == ["KRW-ETH"]
    assert len(source.problems) == 1
    assert "answer.json" in source.problems[0]


@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ([ITEM, ITEM], "duplicated"),
        ([ITEM | {"trade_price": "100"}], "column 'close' has type str"),
        ([ITEM | {"trade_price": None}], "close"),
        ([ITEM | {"low_price": float("nan")}], "low is not a finite number"),
        ([ITEM | {"candle_date_time_utc": "now"}], "first 'now'"),
        ([{k: v for k, v in ITEM.items() if k != "low_price"}], "missing columns: low"),
    ],
)
def test_broken_upbit_candles_fail_their_own_series(tmp_path, items, rule):
    put_json(tmp_path / "answer.json", items)
    put(tmp_path / "KRW-ETH_1D.csv", DAYS)
    source = FilesSource(tmp_path)
    assert source.symbols() == ["KRW-BTC", "KRW-ETH"]
    with pytest.raises(InvalidCandles, match=f"answer.json: .*{rule}"):
        source.fetch("KRW-BTC", H1, Span())


def test_torn_json(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text(json.dumps([ITEM])[:-5])
    with pytest.raises(InvalidCandles, match=r"answer.json: cannot be read as JSON"):
        FilesSource(path).symbols()


def test_json_of_another_symbol_than_asked_for(tmp_path):
    path = put_json(tmp_path / "answer.json", [ITEM])
    with pytest.raises(InvalidCandles, match="holds 1H candles of KRW-BTC, which is not what was asked for"):
        FilesSource(path, symbol="KRW-ETH").symbols()


# ---- real files


@needs_shared_data
def test_recorded_answers(tmp_path):
    source = FilesSource(SHARED_DATA / "upbit_api", now=datetime(2026, 11, 1, tzinfo=UTC))
    assert source.symbols() == ["KRW-BTC"]
    assert source.timeframes("KRW-BTC") == [Timeframe.M1, Timeframe.M5, D1]
    assert sorted(problem.split("/")[-1].split(":")[0] for problem in source.problems) == [
        "error_400_unit.json",
        "error_404_code_not_found.json",
    ]
    minutes = source.fetch("KRW-BTC", Timeframe.M1, Span())
    assert len(minutes) == 240
    assert (minutes["timestamp"].diff().dropna() == pd.Timedelta(minutes=1)).all()
    assert source.years("KRW-BTC", Timeframe.M5, Span()) == [2026]
    days = source.fetch("KRW-BTC", D1, Span())
    assert days["close"].tolist() == [162483000.0, 163158000.0]
    assert CandleStore(tmp_path).merge("KRW-BTC", "1D", days, source=source.name).writes[0].added == 2


@needs_shared_data
def test_real_candles_equal_the_store():
    source, store = FilesSource(SHARED_DATA / "candles"), CandleStore(SHARED_DATA / "candles")
    assert source.symbols() == store.symbols()
    assert source.problems == []
    for symbol, timeframe in (("KRW-BTC", "1H"), ("USDT-1INCH", "1D")):
        same(source, store.load(symbol, timeframe), symbol, Timeframe(timeframe))
        assert source.years(symbol, Timeframe(timeframe), Span()) == store.years(symbol, timeframe)

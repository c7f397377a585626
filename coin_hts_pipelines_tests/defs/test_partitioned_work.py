"""The one way an asset works on its partitions, tried on tiny assets and an instance in memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from coin_hts_pipelines import InvalidRequest, NoCandles, TransientError
from coin_hts_pipelines.defs.partitioned_work import RETRY, Done, Outcome, check_specs, requested_keys, work_on
from coin_hts_pipelines.defs.partitions import RANGE_END, RANGE_START, group_keys, join_key, split_key
from coin_hts_pipelines_tests.defs.helpers import recorded

SINGLE = dg.DynamicPartitionsDefinition(name="things")
MULTI = dg.MultiPartitionsDefinition({"a": dg.DynamicPartitionsDefinition(name="left"), "b": SINGLE})
CHECKS = {"tidy": dg.AssetCheckSeverity.WARN, "sane": dg.AssetCheckSeverity.ERROR}

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster still asks pydantic for fields by the old name.
    pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning"),
]

Work = Callable[[str, tuple[str, ...], Callable[[], bool]], Mapping[str, Outcome]]


class Watching:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.advanced = 0
        self.good: list[str] | None = None
        self.bad: dict[str, str] | None = None

    def advance(self, asset: str, keys: int) -> None:
        assert asset == "thing"
        self.advanced += keys

    def finished(self, asset: str, good: Any, bad: Any) -> None:
        assert asset == "thing"
        self.good, self.bad = sorted(good), dict(bad)

    def check_interrupt(self) -> None:
        """Nobody interrupts."""


class Run:
    """One run of an asset whose body is `work_on`."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        work: Work,
        keys: tuple[str, str],
        partitions: dg.PartitionsDefinition[Any] = SINGLE,
        **more: Any,
    ) -> None:
        self.instance, self.watching, self.attempts = instance, Watching(), 0

        @dg.multi_asset(
            name="thing",
            specs=[dg.AssetSpec("thing", partitions_def=partitions)],
            check_specs=check_specs("thing", CHECKS, {"tidy": "It is tidy.", "sane": "It is sane."}),
            backfill_policy=dg.BackfillPolicy.single_run(),
            # As many as the real policy, but at once.
            retry_policy=dg.RetryPolicy(max_retries=RETRY.max_retries),
        )
        def thing(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult]:
            self.attempts += 1
            wanted = requested_keys(context)
            items = group_keys(wanted, by=0) if "|" in wanted[0] else [(key, (key,)) for key in wanted]
            yield from work_on(context, items, work, progress=self.watching, checks=CHECKS, **more)

        self.result = dg.materialize(
            [thing],
            instance=instance,
            tags={RANGE_START: keys[0], RANGE_END: keys[1]},
            raise_on_error=False,
        )

    @property
    def materialized(self) -> dict[str, dg.AssetMaterialization]:
        """Events by partition."""
        return recorded(self.instance, self.result.run_id)

    @property
    def checks(self) -> dict[str, Any]:
        """Check evaluations by name."""
        found = self.result.get_asset_check_evaluations()
        return {one.check_name: one for one in found}

    @property
    def failure(self) -> tuple[str, dict[str, Any]]:
        """Sentence and metadata of the failed step."""
        data = self.result.failure_data_for_node("thing")
        assert data is not None
        assert data.user_failure_data is not None
        return data.user_failure_data.description or "", dict(data.user_failure_data.metadata)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions("things", ["one", "two", "three"])
        made.add_dynamic_partitions("left", ["x", "y"])
        yield made


def fine(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
    return {key: Done({"name": name}) for key in keys}


def test_all_good(instance: dg.DagsterInstance) -> None:
    run = Run(instance, fine, ("one", "three"))
    assert run.result.success
    assert set(run.materialized) == {"one", "two", "three"}
    assert {key: event.metadata["name"].value for key, event in run.materialized.items()} == {
        key: key for key in ("one", "two", "three")
    }
    assert all("run_seconds" in event.metadata for event in run.materialized.values())
    assert instance.get_materialized_partitions(dg.AssetKey("thing")) == {"one", "two", "three"}
    assert (run.attempts, run.watching.advanced) == (1, 3)
    assert (run.watching.good, run.watching.bad) == (["one", "three", "two"], {})


def test_two_dimensions_are_recorded_with_their_tags(instance: dg.DagsterInstance) -> None:
    run = Run(instance, fine, ("x|one", "y|two"), MULTI)
    assert set(run.materialized) == {"x|one", "x|two", "y|one", "y|two"}
    assert run.materialized["y|one"].tags == {
        "dagster/partition/a": "y",
        "dagster/partition/b": "one",
        **{name: value for name, value in (run.materialized["y|one"].tags or {}).items() if "version" in name},
    }
    assert instance.get_materialized_partitions(dg.AssetKey("thing")) == {"x|one", "x|two", "y|one", "y|two"}


def test_some_bad(instance: dg.DagsterInstance) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {key: NoCandles("there are none") if key == "x|two" else Done({}) for key in keys}

    run = Run(instance, work, ("x|one", "y|two"), MULTI)
    assert not run.result.success
    assert run.attempts == 1, "what is bad for good is not tried again"
    assert set(run.materialized) == {"x|one", "y|one", "y|two"}
    assert (run.materialized["y|two"].tags or {})["dagster/partition/a"] == "y"
    text, metadata = run.failure
    assert text == "1 of 4 partitions failed: x|two: there are none"
    assert metadata["failed_partitions"].value == {"x|two": "there are none"}
    assert run.watching.bad == {"x|two": "there are none"}
    assert instance.get_materialized_partitions(dg.AssetKey("thing")) == {"x|one", "y|one", "y|two"}


def test_an_error_of_the_whole_item_is_that_of_its_keys(instance: dg.DagsterInstance) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        if name == "x":
            raise InvalidRequest("no x")
        return fine(name, keys, cancelled)

    run = Run(instance, work, ("x|one", "y|two"), MULTI)
    assert set(run.materialized) == {"y|one", "y|two"}
    assert run.failure[0] == "2 of 4 partitions failed: x|one: no x; x|two: no x"


def test_transient_first_and_good_on_retry(instance: dg.DagsterInstance) -> None:
    calls = {"one": 0, "two": 0, "three": 0}

    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        calls[name] += 1
        if name == "two" and calls[name] == 1:
            return {name: TransientError("not now")}
        return fine(name, keys, cancelled)

    run = Run(instance, work, ("one", "three"))
    assert run.result.success
    assert (run.attempts, calls) == (2, {"one": 2, "two": 2, "three": 2})
    assert set(run.materialized) == {"one", "two", "three"}, "recorded once, at the end"
    assert run.watching.bad == {}


def test_transient_to_the_end(instance: dg.DagsterInstance) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        if name == "two":
            raise TransientError("not now")
        return fine(name, keys, cancelled)

    run = Run(instance, work, ("one", "three"))
    assert run.attempts == 1 + RETRY.max_retries
    assert set(run.materialized) == {"one", "three"}
    assert run.failure[0] == "1 of 3 partitions failed: two: not now"


def test_an_unexpected_error_is_shown_with_its_class_and_logged(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return fine(name, keys, cancelled) if name != "two" else {name: 1 // 0}

    run = Run(instance, work, ("one", "three"))
    assert run.attempts == 1
    assert set(run.materialized) == {"one", "three"}
    assert run.failure[0].startswith("1 of 3 partitions failed: two: ZeroDivisionError: integer division")
    assert run.result.failure_data_for_node("thing") is not None
    assert "Traceback" in capsys.readouterr().err


def test_many_bad_ones_are_all_in_the_metadata(instance: dg.DagsterInstance) -> None:
    names = [f"n{number:03d}" for number in range(120)]
    instance.add_dynamic_partitions("things", names)

    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        raise NoCandles("none")

    text, metadata = Run(instance, work, (names[0], names[-1])).failure
    assert text.startswith("120 of 120 partitions failed: n000: none; ")
    assert text.count("none") == 50, "a sentence, not a book"
    assert len(metadata["failed_partitions"].value) == 120


def test_checks_name_the_partitions_that_fail_them(instance: dg.DagsterInstance) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {name: Done({}, {"tidy": "a mess"} if name == "two" else {})}

    run = Run(instance, work, ("one", "three"))
    assert run.result.success, "checks report, they do not stop"
    tidy, sane = run.checks["tidy"], run.checks["sane"]
    assert (tidy.passed, sane.passed) == (False, True)
    assert (tidy.severity, sane.severity) == (dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR)
    assert tidy.metadata["failing_partitions"].value == {"two": "a mess"}
    assert (tidy.metadata["failing"].value, tidy.metadata["partitions"].value) == (1, 3)
    assert sane.metadata["failing"].value == 0


@pytest.mark.parametrize(
    ("keys", "partitions", "bad", "columns", "rows"),
    [
        (("one", "three"), SINGLE, "two", ["partition", "finding"], [("two", "a mess")]),
        (("x|one", "y|two"), MULTI, "y|two", ["a", "b", "finding"], [("y", "two", "a mess")]),
    ],
)
def test_what_a_check_finds_is_a_table(
    instance: dg.DagsterInstance,
    keys: tuple[str, str],
    partitions: dg.PartitionsDefinition[Any],
    bad: str,
    columns: list[str],
    rows: list[tuple[str, ...]],
) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {key: Done({}, {"tidy": "a mess"} if key == bad else {}) for key in keys}

    run = Run(instance, work, keys, partitions)
    table = run.checks["tidy"].metadata["quality"]
    assert [column.name for column in table.schema.columns] == columns
    assert [tuple(record.data[name] for name in columns) for record in table.records] == rows
    assert "quality" not in run.checks["sane"].metadata


def test_the_table_of_a_check_is_no_book(instance: dg.DagsterInstance) -> None:
    names = [f"n{number:03d}" for number in range(60)]
    instance.add_dynamic_partitions("things", names)

    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {name: Done({}, {"tidy": "a mess"})}

    tidy = Run(instance, work, (names[0], names[-1])).checks["tidy"]
    assert [record.data["partition"] for record in tidy.metadata["quality"].records] == names[:50]
    assert tidy.metadata["failing"].value == 60


def test_checks_are_reported_beside_failed_partitions(instance: dg.DagsterInstance) -> None:
    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {name: NoCandles("none") if name == "one" else Done({}, {"sane": "odd"})}

    run = Run(instance, work, ("one", "two"))
    assert not run.result.success
    assert run.checks["sane"].metadata["failing_partitions"].value == {"two": "odd"}


def test_finish_gets_the_good_ones_before_they_are_recorded(instance: dg.DagsterInstance) -> None:
    finished: list[set[str]] = []

    def work(name: str, keys: tuple[str, ...], cancelled: Callable[[], bool]) -> dict[str, Outcome]:
        return {name: NoCandles("none") if name == "one" else Done({})}

    run = Run(instance, work, ("one", "three"), finish=lambda good: finished.append(set(good)))
    assert finished == [{"two", "three"}]
    assert set(run.materialized) == {"two", "three"}

    def refuse(good: Mapping[str, Done]) -> None:
        finished.append(set(good))
        raise TransientError("the catalog is away")

    finished.clear()
    run = Run(instance, work, ("one", "three"), finish=refuse)
    assert not run.result.success
    assert run.materialized == {}, "nothing is recorded that could not be finished"
    assert len(finished) == 1 + RETRY.max_retries


def test_partitions_touched_beside_the_wanted_ones_are_recorded_too(instance: dg.DagsterInstance) -> None:
    beside = {"one": Done({"note": "wanted anyway"}), "three": Done({"note": "displaced"})}
    run = Run(instance, fine, ("one", "two"), also=lambda: beside)
    assert set(run.materialized) == {"one", "two", "three"}
    assert run.materialized["three"].metadata["note"].value == "displaced"
    assert "note" not in run.materialized["one"].metadata
    assert run.watching.good == ["one", "three", "two"]


@pytest.mark.parametrize("keys", [("three", "one"), ("y|two", "x|one")])
def test_no_partition_is_a_failure(instance: dg.DagsterInstance, keys: tuple[str, str]) -> None:
    run = Run(instance, fine, keys, MULTI if "|" in keys[0] else SINGLE)
    assert not run.result.success
    assert run.attempts == 1
    assert "the run asks for no partition of thing: the range is empty or reversed" in run.failure[0]


def test_keys() -> None:
    assert split_key("KRW-BTC|2024") == ("KRW-BTC", "2024")
    assert join_key("KRW-BTC", "2024") == "KRW-BTC|2024"
    keys = ["b|1", "a|1", "b|2"]
    assert group_keys(keys, by=0) == [("b", ("b|1", "b|2")), ("a", ("a|1",))]
    assert group_keys(keys, by=1) == [("1", ("b|1", "a|1")), ("2", ("b|2",))]

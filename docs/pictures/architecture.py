"""Draws the two pictures of docs/architecture.md: `python docs/pictures/architecture.py` (`make docs`).

The rooms, what they hold and what they import are read from the package; a test redraws both and compares.
"""

from __future__ import annotations

import ast
from pathlib import Path

from picture import BLUE, GREEN, GREY, INK, ORANGE, Picture

PACKAGE = Path(__file__).resolve().parents[2] / "coin_hts_pipelines"
WIDTH = 1000
RINGS = {
    3: ("cli", "control", "defs", "definitions"),
    2: ("lake", "results", "catalog", "tasks", "storage", "operations", "reports", "settings"),
    1: ("market", "indicators", "strategies", "backtest", "errors", "parallel", "kernels", "clock"),
}
ABOUT = {
    3: "orchestration: the only place that knows Dagster",
    2: "stores and services: files, Postgres, object store, exchange, mail; no Dagster",
    1: "domain: pure functions over arrays and frames; no files, no SQL, no Dagster",
}


def flow() -> str:
    """From a candle to an export, and back to an alert."""
    p = Picture(848, WIDTH)
    p.text(14, 24, "From a candle to an export, and back to an alert", size=16, bold=True)
    p.text(966, 24, "blue: sensors and schedules, green: assets, grey: stores, orange: alerts", size=11, anchor="end")

    # What starts it.
    starters = (
        ("universe", "hourly: the exchange's market list"),
        ("refresh_candles_*", "as bars close, of a live source"),
        ("inbox", "files dropped into DATA_ROOT/inbox"),
        ("changed_candles", "years changed by hand or by coin-hts data"),
        ("automation", "every 30 s: what lies below a change"),
    )
    for place, (name, words) in enumerate(starters):
        p.card(14 + 155 * place, 44, 144, 76, name, words, BLUE)
    p.card(789, 44, 177, 76, "renew_walk_forwards_*", "Monday 04:00", BLUE)

    # What is made.
    p.card(14, 190, 150, 76, "source", "sample, files, exchange:NAME, or finer candles", INK, dash="4 3")
    p.card(206, 190, 130, 76, "candles_*", "symbol x year", GREEN)
    p.card(378, 190, 130, 76, "indicators_*", "symbol x year", GREEN)
    p.card(550, 190, 130, 76, "backtests_*", "preset x symbol", GREEN)
    p.card(740, 150, 226, 46, "rankings_*", "preset; with the report", GREEN)
    p.card(740, 205, 226, 46, "exports_*", "preset x symbol", GREEN)
    p.card(740, 260, 226, 46, "walk_forwards_*", "preset x symbol", GREEN)
    for x in (164, 336, 508):
        p.arrow((x, 228), (x + 42, 228))
    for y in (173, 228, 283):
        p.arrow((680, 228), (710, 228), (710, y), (740, y)) if y != 228 else p.arrow((680, 228), (740, 228))
    p.arrow((89, 120), (89, 190), stroke=BLUE)
    for x in (241, 396, 551):
        p.line([(x, 120), (x, 148), (271, 148)], BLUE)
    p.arrow((271, 148), (271, 190), stroke=BLUE)
    p.line([(680, 120), (680, 134), (443, 134)], BLUE, dash="4 3")
    p.arrow((443, 134), (443, 190), stroke=BLUE, dash="4 3")
    p.arrow((615, 134), (615, 190), stroke=BLUE, dash="4 3")
    p.arrow((760, 120), (760, 150), stroke=BLUE, dash="4 3")
    p.arrow((966, 82), (974, 82), (974, 283), (966, 283), stroke=BLUE)

    # Tasks.
    p.card(14, 336, 190, 62, "a request", "coin-hts task submit, TaskQueue, job submit_backtest_task", INK, dash="4 3")
    p.card(246, 336, 150, 62, "queue", "table catalog.tasks: the truth of a task", GREY)
    p.card(438, 336, 170, 62, "dispatch_tasks", "every second: claims tasks, starts a run", BLUE)
    p.card(650, 336, 130, 62, "backtest_task", "one task, one partition", GREEN)
    p.card(822, 336, 144, 62, "reconcile_tasks", "every 10 s: lost and dead tasks", BLUE)
    for x in (204, 396, 608):
        p.arrow((x, 367), (x + 42, 367))
    p.arrow((822, 367), (780, 367), stroke=BLUE)

    # Where it lies.
    p.card(
        14, 440, 430, 90, "DATA_ROOT",
        "{SYMBOL}/{TIMEFRAME}/{YEAR}.parquet (candles), indicators/, results/,\n"
        "rankings/, reports/, tasks/, inbox/, logs/\neach file written aside and renamed, with its digest", GREY,
    )  # fmt: skip
    p.card(
        462, 440, 300, 90, "Postgres",
        "schema dagster: runs, events, partitions, ticks\nschema catalog: presets, result index, tasks, dead letters, "
        "coverage, symbols, alerts", GREY,
    )  # fmt: skip
    p.card(780, 440, 186, 90, "export store", "a folder or a bucket; each file checked against its manifest", GREY)
    for x in (271, 443, 615):
        p.line([(x, 266), (x, 320)], GREY)
    p.line([(853, 306), (853, 320)], GREY)
    p.arrow((853, 320), (6, 320), (6, 485), (14, 485), stroke=GREY)
    p.arrow((966, 228), (982, 228), (982, 485), (966, 485), stroke=GREY)

    # By the clock.
    p.card(14, 562, 170, 62, "clean_up_tasks", "00:00: results of old tasks", BLUE)
    p.card(198, 562, 170, 62, "back_up", "02:00: both stores, then old backups go", BLUE)
    p.card(382, 562, 170, 62, "prune_storage", "03:30: old runs, events, exports, files", BLUE)
    p.card(566, 562, 196, 62, "drill_backup", "Sunday 04:30: restores the newest backup beside it all", BLUE)
    p.card(780, 562, 186, 62, "backups", "a folder or a bucket, by SHA-256", GREY)
    p.line([(612, 530), (612, 546), (283, 546)], GREY)
    p.arrow((283, 530), (283, 562), stroke=GREY)
    p.arrow((283, 624), (283, 640), (873, 640), (873, 624), stroke=GREY)
    p.arrow((780, 593), (762, 593), stroke=GREY)

    # Back to a person.
    p.card(14, 666, 150, 76, "watch_failures", "failed runs and checks", BLUE)
    p.card(178, 666, 150, 76, "watch_conditions", "stale candles, full disks", BLUE)
    p.card(342, 666, 150, 76, "watch_backups", "no good backup for a day", BLUE)
    p.card(506, 666, 150, 76, "dead_runs", "ends runs whose process is gone", BLUE)
    p.card(14, 768, 314, 56, "coin-hts doctor --watch", "Postgres or the daemon down: sends by itself", INK, dash="4 3")
    p.card(342, 768, 150, 56, "outbox", "table catalog.alerts", GREY)
    p.card(506, 768, 150, 56, "deliver_alerts", "every 30 s, again if refused", BLUE)
    p.card(670, 768, 138, 56, "Slack, mail, log", "each with its runbook", ORANGE)
    p.card(834, 768, 132, 56, "a person", "docs/runbooks/", INK, dash="4 3")
    for x in (89, 253):
        p.line([(x, 742), (x, 755), (417, 755)], ORANGE)
    p.arrow((417, 742), (417, 768), stroke=ORANGE)
    p.line([(966, 367), (990, 367), (990, 755), (417, 755)], ORANGE)
    p.arrow((171, 824), (171, 838), (739, 838), (739, 824), stroke=ORANGE)
    p.arrow((492, 796), (506, 796), stroke=ORANGE)
    p.arrow((656, 796), (670, 796), stroke=ORANGE)
    p.arrow((808, 796), (834, 796), stroke=ORANGE)
    p.text(670, 690, "Dead letters go the same way (right).", size=11)
    p.text(670, 706, "Failed runs of back_up and drill_backup are", size=11)
    p.text(670, 722, "alerts of their own kind.", size=11)
    return p.svg()


def rooms() -> dict[str, tuple[str, tuple[str, ...]]]:
    """What each room holds, in its own words, and which other rooms it imports; single files are not told of."""
    found = {}
    for room in (room for ring in RINGS.values() for room in ring):
        files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
        trees = [ast.parse(path.read_text()) for path in files]
        about = (ast.get_docstring(trees[0]) or "").split(". ")[0].splitlines()[0].strip(".").replace("`", "")
        used = {name for tree in trees for name in _imported(tree)} - {room}
        found[room] = about, tuple(one for ring in RINGS.values() for one in ring if one in used and _is_room(one))
    return found


def _is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir()


def _imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "coin_hts_pipelines":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coin_hts_pipelines."):
            names.add(str(node.module).split(".")[1])
    return names


def rings() -> str:
    """The rooms by ring; what each imports."""
    found, p, top = rooms(), Picture(754, WIDTH), 44
    p.text(14, 24, "Rooms and rings: an import points only inwards", size=16, bold=True)
    for ring, colour in ((3, BLUE), (2, ORANGE), (1, GREEN)):
        names = RINGS[ring]
        rows = -(-len(names) // 4)
        high = 38 + 106 * rows
        p.box(14, top, 952, high, colour, opacity=0.1)
        p.text(26, top + 22, f"Ring {ring}", size=14, bold=True, fill=colour)
        p.text(84, top + 22, ABOUT[ring])
        for place, name in enumerate(names):
            about, used = found[name]
            x, y = 26 + 234 * (place % 4), top + 34 + 106 * (place // 4)
            title = name if _is_room(name) else f"{name}.py"
            p.card(x, y, 226, 98, title, f"{about}\nimports {', '.join(used)}" if used else about, colour)
        top += high
        if ring > 1:
            p.arrow((490, top), (490, top + 26))
            p.text(504, top + 18, "may import", size=11)
            top += 26
    return p.svg()


PICTURES = {"flow.svg": flow, "rooms.svg": rings}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / name).write_text(draw())

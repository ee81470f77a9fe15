"""The rows as tables: scores of all contenders, and ours against the best rival of each task."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from benchmarks.rows import Row
from benchmarks.usefulness.comparison import Scores, Verdict, paired
from benchmarks.usefulness.ours import JUDGED, ROWS

HELD_OUT = "†"


def table(found: list[Row]) -> str:
    """Both tables, and the count of verdicts."""
    return "\n\n".join([scores(found), comparison(found)])


def scores(found: list[Row]) -> str:
    """Task × contender: mean ± deviation over seeds, the best in bold."""
    contenders = list(dict.fromkeys(row["rival"] for row in found))
    lines = [f"| task | {' | '.join(contenders)} |", f"|---|{'---|' * len(contenders)}"]
    for task in _tasks(found):
        by_contender = of_task(found, task)
        means = {name: statistics.mean(values.values()) for name, values in by_contender.items()}
        best = max(means.values(), default=0.0)
        cells = []
        for name in contenders:
            errors = _failures(found, task, name)
            cell = _spread(by_contender[name]) if name in means else ""
            cell = f"**{cell}**" if name in means and means[name] == best else cell
            cells.append(f"{cell} {errors} failed".strip() if errors else cell)
        lines.append(f"| {_shown(found, task)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison(found: list[Row]) -> str:
    """Task, the rival with the best mean score, our paired difference to it, and the verdict; a failed run loses."""
    lines = [f"| task | best rival | {JUDGED}: difference, 95 % interval | verdict |", "|---|---|---|---|"]
    verdicts: list[Verdict] = []
    for task in _tasks(found):
        by_contender = of_task(found, task)
        rivals = {name: values for name, values in by_contender.items() if name not in ROWS}
        failures = _failures(found, task, JUDGED)
        if not rivals or not (failures or JUDGED in by_contender):
            continue
        best = max(rivals, key=lambda name: statistics.mean(rivals[name].values()))
        if failures:
            difference, verdict = f"{failures} failed", Verdict.loss
        else:
            interval = paired(by_contender[JUDGED], rivals[best])
            difference, verdict = signs(f"{interval.mean:+.4f} ± {interval.half:.4f}"), interval.verdict
        verdicts.append(verdict)
        lines.append(f"| {_shown(found, task)} | {best} | {difference} | {verdict} |")
    counts = Counter(verdicts)
    plural = {Verdict.win: "wins", Verdict.tie: "ties", Verdict.loss: "losses"}
    total = ", ".join(f"{counts[one]} {one if counts[one] == 1 else many}" for one, many in plural.items())
    return "\n".join(lines) + f"\n\nOf {len(verdicts)} tasks: {total}." if verdicts else "Ours did not run."


def of_task(found: list[Row], task: str) -> Mapping[str, Scores]:
    """Contender → its scores by seed, without the runs that failed."""
    by_contender: dict[str, dict[int, float]] = {}
    for row in found:
        if row["task"] == task and "score" in row:
            by_contender.setdefault(row["rival"], {})[row["seed"]] = row["score"]
    return by_contender


def _failures(found: list[Row], task: str, contender: str) -> int:
    return sum("error" in row for row in found if (row["task"], row["rival"]) == (task, contender))


def _tasks(found: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in found))


def _shown(found: list[Row], task: str) -> str:
    held_out = next(row["held_out"] for row in found if row["task"] == task)
    return f"{task} {HELD_OUT}" if held_out else task


def _spread(values: Scores) -> str:
    deviation = statistics.stdev(values.values()) if len(values) > 1 else 0.0
    return signs(f"{statistics.mean(values.values()):.3f} ± {deviation:.3f}")


def signs(text: str) -> str:
    """The text with real minus signs."""
    return text.replace("-", "−")

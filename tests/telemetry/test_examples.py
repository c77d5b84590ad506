"""The example dashboard and alert rules ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from userdisk.telemetry.prometheus import _FAMILIES

FOLDER = Path(__file__).parents[2] / "examples" / "metrics"
LABELS = {"unit", "operation", "initiator", "protocol", "instance", "le"}


def _expressions(name: str) -> list[str]:
    text = (FOLDER / name).read_text()
    if name.endswith(".json"):
        dashboard = json.loads(text)
        asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        queries = [each["query"] for each in dashboard["templating"]["list"]]
        return asked + [each["query"] for each in queries if isinstance(each, dict)]
    return re.findall(r"^ +expr: ((?:.*\n)(?: {10}.*\n)*)", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "count"), [("dashboard.json", 12), ("alerts.yml", 5)])
def test_metrics_and_labels_exist(name: str, count: int) -> None:
    known = {
        f"userdisk_{family}{suffix}"
        for family, (kind, _) in _FAMILIES.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    expressions = _expressions(name)
    assert len(expressions) == count
    for expression in expressions:
        metrics = re.findall(r"userdisk_\w+", expression)
        assert metrics and set(metrics) <= known, expression
        for group in re.findall(r" by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= LABELS, expression
        for selector in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r'(\w+)(?==~?")', selector)) <= LABELS, expression
        assert expression.count("(") == expression.count(")")


def test_panels_do_not_overlap() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23

"""The verdict as JUnit XML: a suite for each job, a case for each row. CI systems show it; people never read it raw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as xml

from runner.ci.checks import Check, Result, Verdict
from runner.ci.place import place_of

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 can't hold, not even escaped; completions may hold anything."""

ENDINGS = {Verdict.FAILED: "failure", Verdict.ERROR: "error", Verdict.SKIPPED: "skipped"}


def junit(results: Sequence[Result]) -> str:
    """The whole document."""
    root = xml.Element("testsuites", {"name": "runner emulate (EMULATED)", **_counts(results)})
    for result in results:
        root.append(_suite(result))
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _counts(results: Sequence[Result]) -> dict[str, str]:
    return {
        "tests": str(sum(len(result.checks) for result in results)),
        "failures": str(sum(result.count(Verdict.FAILED) for result in results)),
        "errors": str(sum(result.count(Verdict.ERROR) for result in results)),
        "skipped": str(sum(result.count(Verdict.SKIPPED) for result in results)),
        "time": f"{sum(result.seconds for result in results):.3f}",
    }


def _suite(result: Result) -> xml.Element:
    suite = xml.Element("testsuite", {"name": _text(result.job), **_counts([result])})
    properties = xml.SubElement(suite, "properties")
    for name, value in _properties(result):
        xml.SubElement(properties, "property", name=name, value=_text(value))
    for check in result.checks:
        suite.append(_case(result, check))
    return suite


def _properties(result: Result) -> list[tuple[str, str]]:
    common = [("emulated", "true"), ("job_file", str(result.path))]
    several = len(result.trials) > 1
    for trial in result.trials:
        mark = f"[{trial.seed}]" if several else ""
        common += [
            (f"run{mark}", trial.run.id),
            (f"seed{mark}", str(trial.seed)),
            (f"digest{mark}", trial.run.digest or ""),
            (f"revision{mark}", trial.run.revision),
        ]
    return common


def _case(result: Result, check: Check) -> xml.Element:
    name = f"{check.name} {check.asked}".strip()
    case = xml.Element("testcase", classname=_text(f"{result.job}.{check.tier}"), name=_text(name))
    place = place_of(check)
    if place is not None and place.line:
        case.set("file", _text(place.file))
        case.set("line", str(place.line))
    if check.verdict in ENDINGS:
        ending = xml.SubElement(case, ENDINGS[check.verdict], message=_text(check.found))
        if check.verdict.is_failure:
            ending.set("type", str(check.verdict))
            ending.text = _text(_long(check))
    elif check.verdict is Verdict.WARNED:
        xml.SubElement(case, "system-out").text = _text(f"warning: {check.found}")
    return case


def _long(check: Check) -> str:
    lines = [check.found]
    if check.asked:
        lines.append(f"asked: {check.asked}")
    place = place_of(check)
    if place is not None:
        lines.append(f"at {place.file}:{place.line}:{place.column}")
    return "\n".join(lines)


def _text(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)

"""Text for terminals: hostile characters are written out, figures are short."""

from __future__ import annotations

import json

from runner.cli import text


def test_characters_that_act_on_a_terminal_are_written_out() -> None:
    assert text.clean("a\x1b[31mb\x07\x9bc\x7f") == "a\\x1b[31mb\\x07\\x9bc\\x7f"
    assert text.clean("abc\u202ecba\u2066\u200b") == "abc\\u202ecba\\u2066\\u200b"
    assert text.clean("\ud800\U000e0001") == "\\ud800\\U000e0001"


def test_lines_and_ordinary_letters_stay() -> None:
    assert text.clean("größer\n第二行\tx\u00a0y") == "größer\n第二行    x y"
    assert text.clean("dos\r\nline\rx") == "dos\nline\\x0dx"
    assert text.clean_line("two\nlines") == "two⏎lines"


def test_json_is_ascii_and_holds_what_was_given() -> None:
    value = {"completion": "\x1b]0;x\x07\x7f\x9b\u202e☃"}
    shown = text.to_json(value)
    assert shown.isascii() and not any((ord(c) < 32 and c != "\n") or ord(c) == 127 for c in shown)
    assert json.loads(shown) == value


def test_figures_are_short() -> None:
    assert [text.number(x) for x in (None, 0.0, 0.4567, 12.345, 1234.5, 1e-5)] == [
        "–", "0.000", "0.457", "12.3", "1,234", "1.0e-05",
    ]  # fmt: skip
    assert [text.count(n) for n in (950, 1240, 3_400_000)] == ["950", "1.2k", "3.4M"]
    assert [text.clock(s) for s in (14, 185, 7800)] == ["0:14", "3:05", "2:10:00"]
    assert [text.duration(s) for s in (0.84, 14, 185, 7800)] == ["0.8 s", "14 s", "3 min 5 s", "2 h 10 min"]
    assert [text.ago(s) for s in (5, 300, 10_800, 200_000)] == ["just now", "5 min ago", "3 h ago", "2 days ago"]
    assert text.size(1_300_000) == "1.3 MB"


def test_a_sparkline_shows_the_course_of_a_series() -> None:
    assert text.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert text.sparkline([5.0, 5.0]) == "▁▁"
    assert text.sparkline([]) == ""
    assert len(text.sparkline(list(range(1000)), width=24)) == 24


def test_an_arrow_tells_a_change_from_rounding() -> None:
    assert (text.arrow(0.3, 0.5), text.arrow(0.5, 0.3), text.arrow(100.0, 100.4)) == ("↑", "↓", "→")


def test_a_table_aligns_its_columns() -> None:
    assert text.table([("name", "n"), ("a", "100")], right=(1,)) == ["name    n", "a     100"]

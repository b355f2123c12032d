"""The dashboard's words, numbers and drawings."""

from __future__ import annotations

import pytest

from service.core.objectives import Direction
from service.dashboard import findings, formats, views
from service.wire.searches import RankAudit
from service.wire.studies import ObjectiveOut


def _audit(n: int, tau: float | None, low: float | None = None, macs: float | None = 0.5) -> RankAudit:
    high = None if tau is None else min(tau + 0.1, 1.0)
    return RankAudit(kendall_tau=tau, ci_low=low, ci_high=high, macs_tau=macs, params_tau=0.4, n=n)


@pytest.mark.parametrize(
    ("audit", "headline", "tone"),
    [
        (_audit(14, 0.9, 0.8), "Too few probes", "open"),
        (_audit(20, None), "Ranks nothing", "poor"),
        (_audit(20, 0.45, 0.3), "No better than MACs", "poor"),
        (_audit(20, 0.55, 0.3), "Not shown to be better than MACs", "open"),
        (_audit(20, 0.8, 0.6), "Ranks better than MACs", "good"),
        (_audit(20, 0.8, 0.6, macs=None), "Ranks better than parameters", "good"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(audit: RankAudit, headline: str, tone: str) -> None:
    found = findings.verdict(audit)
    assert (found.headline, found.tone) == (headline, tone)
    assert str(audit.n) in found.text


def test_scaling_is_printed_in_words() -> None:
    objective = ObjectiveOut(metric="macs", direction=Direction.MINIMISE, bounds=(1e5, 2e6))
    assert findings.scaling([objective]) == (
        "Scaled: MACs: 100 k is 0, 2.00 M is 1. Reference point 1.1 in each, so the most there can be is 1.10."
    )


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("error", 0.1234, "12.34 %"),
        ("macs", 1_234_567.0, "1.23 M"),
        ("macs", 999_600.0, "1.00 M"),
        ("params", 950.0, "950"),
        ("latency_ms@cpu-a", 0.4217, "0.422 ms"),
        ("loss", 0.0, "0"),
        ("gradsign", -12345.0, "−12345"),
        ("other", 1e-9, "1.00e−09"),
        ("error", None, "–"),
    ],
)
def test_values_carry_their_units(name: str, number: float | None, text: str) -> None:
    assert formats.value(name, number) == text


def test_names_and_times_are_for_people() -> None:
    assert formats.label("latency_ms@cpu-a") == "Latency on cpu-a (ms)"
    assert [formats.duration(s) for s in (0.42, 42, 252, 12_000)] == ["0.4 s", "42 s", "4 min 12 s", "3 h 20 min"]
    assert formats.config_summary({"a.b": 1, "r": 8, "a.b.c": 2}, items=2) == "r 8, a.b 1 and 1 more"
    assert formats.config_summary({}) == ""
    assert [formats.heading(name) for name in ("synflow", "macs", "own_score@a")] == [
        "SynFlow",
        "MACs",
        "own score on a",
    ]
    assert [formats.fixed(number) for number in (0.676, -0.104, -0.004, -1)] == ["0.68", "−0.10", "0.00", "−1.00"]
    assert formats.capitalised("no better than MACs") == "No better than MACs"


def test_diagrams_say_what_their_lines_mean() -> None:
    chain = views.drawn({"nodes": ["input", "conv_3x3", "output"], "edges": [[0, 1], [0, 2], [1, 2]]})
    assert chain is not None
    assert (chain.title, chain.skips) == ("A chain of 3 operations, 1 of them with a skip connection", True)
    assert chain.svg.count('class="node') == 3
    assert "<style>" not in chain.svg, "the page has its own colours"
    assert views.drawn({"nodes": [], "edges": []}) is None

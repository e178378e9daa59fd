"""The report as one HTML file that needs no network: styles and charts are inside, scripts there are none.

Everything from outside (headlines, outlets, reasons) is escaped by the template engine; a link is kept only where it
is http or https. A content security policy forbids the page to load or run anything.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from qaicl.i18n import Language, translator
from qaicl.oracle.observations import State
from qaicl.oracle.report import wording
from qaicl.oracle.report.document import Report
from qaicl.oracle.report.drawing import charts
from qaicl.oracle.report.live import live_text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qaicl.oracle.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number,
        "unit": wording.with_unit,
        "percent": wording.percent,
        "signed": wording.signed,
        "moment": wording.moment,
        "link": _safe_link,
    }
    return environment


def render_html(report: Report, language: Language = "en") -> str:
    """The whole page."""
    t = translator(language)
    template = _environment().get_template("report.html.j2")
    return template.render(
        r=report,
        t=t,
        language=language,
        # Markup: charts.py escapes whatever it is given.
        charts={name: Markup(svg) for name, svg in charts(report, t).items()},
        sentiment=report.sentiment,
        forecast=report.forecast,
        live=live_text(report.live, t),
        narrative=report.narrative,
        narrative_absent=report.absent.get("narrative"),
        age=lambda seconds: wording.age(seconds, t),
        horizon=wording.span(report.horizon_seconds, t),
        figure_names=wording.FIGURE_NAMES,
        series_names=wording.SERIES_NAMES,
        state_tone=wording.STATE_TONE,
        level_tone=wording.LEVEL_TONE,
        missing=State.missing,
        absence=lambda part: wording.absence(part, t),
        listed=lambda names: wording.listed(names, t),
        subject=lambda name: wording.subject(name, t),
        no_bars=wording.no_bars(report, t),
        no_posts=wording.NO_POSTS,
    )


def _safe_link(url: str) -> str:
    return url if url.startswith(("https://", "http://")) else ""

"""What is drawn by pygal: the sizes of the updates by layer. Its SVG has classes and no styles, so that ours apply."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from pytest_lora_ckpt.auditing.render.html import heatmap
from pytest_lora_ckpt.auditing.render.html.plotting import Line, Style
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.auditing.picture import Stack
    from pytest_lora_ckpt.auditing.result import AuditResult

_FEWEST_LAYERS = 3
_MOST_LAYERS = 200
_NOT_DRAWN = frozenset({"defs", "desc", "title", "script"})

COLOURS = 8
"""How many lines a chart has: the style sheet has a colour for each."""


class Chart(NamedTuple):
    """A chart.

    Attributes:
        name: Path of the layers.
        svg: The drawing.
        lines: What each line is, in the order of their colours.
        left: How many modules have no line.
    """

    name: str
    svg: Markup
    lines: Sequence[str]
    left: int


def size_charts(run: AuditResult) -> list[Chart]:
    """Draw the sizes of the updates by layer, a line for each module, a chart for each stack of layers."""
    known = heatmap.sizes(run)
    return [chart for stack in run.picture if (chart := _chart(stack, known)) is not None]


def _chart(stack: Stack, known: heatmap.Sizes) -> Chart | None:
    lines: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for place, own in known.cells.items():
        if place.stack == stack.name and max(own):
            lines[place.module][place.layer] = max(own)
    layers = stack.layers[:_MOST_LAYERS]
    if not lines or len(layers) < _FEWEST_LAYERS:
        return None
    shown = dict(sorted(lines.items())[:COLOURS])
    return Chart(stack.name, _svg(layers, shown, known), [*shown], len(lines) - len(shown))


def _svg(layers: Sequence[str], lines: Mapping[str, Mapping[str, float]], known: heatmap.Sizes) -> Markup:
    times, unit = (100, "%") if known.is_relative else (1, "")
    chart: Any = Line(
        style=Style(label_font_size=13, major_label_font_size=13),
        css=(),
        js=(),
        disable_xml_declaration=True,
        width=400,
        height=230,
        margin=6,
        dots_size=2,
        logarithmic=True,
        show_legend=False,
        x_labels=[printable(layer, 12) for layer in layers],
        x_labels_major_every=max(1, len(layers) // 8),
        show_minor_x_labels=False,
        truncate_label=-1,
        y_labels_major_count=5,
        show_minor_y_labels=False,
        value_formatter=lambda value: f"{value:.2g}{unit}",
    )
    for name, own in lines.items():
        chart.add(printable(name), [own[layer] * times if own.get(layer) else None for layer in layers])
    chart.add_xml_filter(_bare)
    return Markup(chart.render(is_unicode=True))  # noqa: S704  # Made by ElementTree, which escapes.


def _bare(root: Any) -> Any:
    """Leave out scripts, styles and comments, and give each dot its number as a title, which needs no script."""
    root.attrib.pop("id", None)
    root.set("class", "chart")
    root.set("aria-hidden", "true")
    for parent in list(root.iter()):
        parent.attrib.pop("style", None)
        told = {each.get("class", ""): each.text for each in parent if each.tag == "desc"}
        for child in list(parent):
            is_drawn = isinstance(child.tag, str) and child.tag not in _NOT_DRAWN
            if not is_drawn or child.get("class", "").startswith(("tooltip", "plot overlay", "plot text-overlay")):
                parent.remove(child)
        for dot in parent if told else ():
            title = dot.makeelement("title", {})
            title.text = f"layer {told.get('x_label', '')}: {told.get('value', '')}"
            dot.append(title)
    return root

"""The picture of the model: where keys stand in it, what is shown of them, and that it stays small."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import AuditResult, audit
from pytest_lora_ckpt.auditing.picture import STATUSES, draw, mark, place_of_module, positions, union
from pytest_lora_ckpt.auditing.picture.facts import runs
from pytest_lora_ckpt.auditing.picture.places import count_places, place_of_each
from pytest_lora_ckpt.auditing.render import ENDINGS
from pytest_lora_ckpt.auditing.render.html import heatmap
from pytest_lora_ckpt.auditing.result import CheckpointFacts, UpdateFacts
from pytest_lora_ckpt.results import Finding

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.picture import Stack

KEYS = [f"layers.{n}.{name}.weight" for n in range(3) for name in ("attn.q", "attn.k", "norm")]


def page(*results: AuditResult) -> str:
    return ENDINGS[".html"].render(results)


def of(picture: tuple[Stack, ...], **more: object) -> AuditResult:
    return dataclasses.replace(AuditResult("a.ckpt", CheckpointFacts("a.ckpt")), picture=picture, **more)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("model.layers.3.mlp.experts.17.w1.weight", ("model.layers", "mlp.experts.*.w1", "3")),
        ("lm_head.weight", ("", "lm_head", "")),
        ("module.h.3.attn.c_attn.bias", ("h", "attn.c_attn", "3")),
        ("resampler.mlp.0.weight", ("", "resampler.mlp.0", "")),
        ("blocks.3.ffn.0.weight", ("blocks", "ffn.0", "3")),
        (
            "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            ("unet.down_blocks.#.attentions.#.transformer_blocks", "attn1.to_out.0", "0.1.0"),
        ),
        (
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            ("lora_unet_down_blocks.#.attentions.#.transformer_blocks", "attn1_to_q", "0.1.0"),
        ),
        ("weight", ("", "", "")),
        ("", ("", "", "")),
        (".0.²..", ("", "0.²", "")),
    ],
)
def test_where_a_key_stands(key: str, place: tuple[str, str, str]) -> None:
    if key != ".0.²..":  # Any text has some place.
        assert place_of_each([key])[key] == place
    assert list(count_places([key])) == [place_of_each([key])[key]]


def test_a_module_of_a_live_model_stands_where_its_keys_do() -> None:
    path = "language_model.base_model.model.model.layers.0.self_attn.q_proj"
    assert place_of_module(path) == place_of_each([f"{path}.lora_A.default.weight"])[f"{path}.lora_A.default.weight"]


def test_layers_and_modules_that_are_alike_are_said_once() -> None:
    [stack] = draw({"loaded": [key for key in KEYS if "1.norm" not in key], "missing": ["layers.1.norm.weight"]})
    assert stack.layers == ("0", "1", "2")
    assert [each.names for each in stack.modules] == [("attn.k", "attn.q"), ("norm",)]
    assert [(each.at, each.keys) for each in stack.modules[1].cells] == [("0,2", {"loaded": 1}), ("1", {"missing": 1})]
    assert list(positions(runs([0, 1, 2, 5, 7, 8]))) == [0, 1, 2, 5, 7, 8]


def test_what_the_values_show_is_marked_under_the_models_names() -> None:
    from pytest_lora_ckpt.auditing.picture import Renaming

    picture = draw({"renamed": KEYS})
    found = [
        Finding("nan-or-inf", "error", "", "", ("model.layers.1.attn.q.lora_A.weight",)),
        Finding("lora-slot-empty", "error", "", "", ("model.layers.0.attn.q.lora_A.weight",)),
    ]
    marked = mark(picture, found, [Renaming(r"^model\.", "")], [("layers.2.attn.k", "zero")])
    [stack] = marked
    shown = {
        (name, position): heatmap.status(alike.keys)
        for module in stack.modules
        for name in module.names
        for alike in module.cells
        for position in positions(alike.at)
    }
    assert shown.pop(("attn.q", 1)) == "broken"
    assert shown.pop(("attn.k", 2)) == "zero"
    assert set(shown.values()) == {"renamed"}
    assert mark((), found, [], []) == ()


def test_pictures_of_several_checks_are_one() -> None:
    names, values = draw({"loaded": KEYS}), draw({"differs": KEYS[:1]})
    both = union(names, values)
    assert both == union(values, names) == union(both, names)
    assert both is not None
    assert heatmap.used_statuses([of(both)]) == ["differs", "loaded"]
    assert union(None, names) == union(names, None) == names


def test_every_status_has_a_colour_a_sign_and_a_meaning() -> None:
    keys = {status: [f"layers.{n}.{status}.weight" for n in range(2)] for status in STATUSES}
    text = page(of(draw(keys)))
    style = text[: text.index("</style>")]
    for status, meaning in STATUSES.items():
        assert re.search(rf"(?:^|[ .d]){status}(?:\.cell, td\.{status})? {{ background", style, re.MULTILINE), status
        assert re.search(rf'\.{status}(?:\.cell)?::before {{ content: "." / "{status} "', style), status
        assert f"<b>{status}</b>: {meaning}" in text
        assert f'<td class="{status}">1</td>' in text


def test_the_page_on_the_report_says_what_each_status_means() -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE) == [*STATUSES.items()]


def test_a_cell_says_more_where_its_keys_differ() -> None:
    text = page(of(draw({"loaded": ["layers.0.q.weight"], "missing": ["layers.0.q.bias"]})))
    assert '<td class="missing" title="1 missing, 1 loaded">2</td>' in text


def test_sizes_are_shares_of_the_weights_and_shaded_by_their_logarithm() -> None:
    updates = tuple(UpdateFacts(f"layers.{n}.attn.q", "default", size, 2.0) for n, size in enumerate((0.0, 0.002, 0.2)))
    run = of(draw({"loaded": KEYS}), updates=updates)
    [grid] = heatmap.size_grids(run, *heatmap.scale([run]))
    assert [[cell.text for cell in cells] for _, cells in grid.rows] == [["0"], ["0.10"], ["10"]]
    assert [cells[0].kind for _, cells in grid.rows] == ["u0", "u1", f"u{heatmap.SHADES}"]
    text = page(run)
    assert "‖s·BA‖ / ‖W‖ in percent" in text
    assert "Size of its update" in text
    assert '<svg xmlns="http://www.w3.org/2000/svg"' in text


def test_sizes_whose_weights_are_not_known_are_said_as_such() -> None:
    run = of(
        draw({"held": KEYS}),
        updates=(UpdateFacts("layers.0.attn.q", None, 0.5), UpdateFacts("layers.1.attn.q", None, None)),
    )
    assert "The weights that it changes are not known" in page(run)


def test_of_several_adapters_in_a_module_the_middle_is_shown() -> None:
    updates = tuple(
        UpdateFacts("layers.0.attn.q", name, size, 1.0) for name, size in zip("abc", (0.1, 0.2, 0.9), strict=True)
    )
    run = of(draw({"loaded": KEYS}), updates=updates)
    [grid] = heatmap.size_grids(run, *heatmap.scale([run]))
    assert grid.rows[0][1][0] == heatmap.Cell("u3", "20", "3 updates, 10 to 90 %")


def test_what_is_too_large_to_draw_is_counted() -> None:
    keys = [f"layers.{n}.m{at}.weight" for n in (*range(300), 10**40) for at in range(3)]
    wide = [f"blocks.0.m{at}.weight" for at in range(1000)]
    grids = {grid.name: grid for grid in heatmap.status_grids(of(draw({"loaded": [*keys, *wide]})))}
    assert grids["layers"].left == "101 more layers"
    assert grids["blocks"].left == "800 more modules"
    assert len(page(of(draw({"loaded": [*keys, *wide]})))) < 200_000


def test_the_picture_of_a_checkpoint_alone_and_with_its_model(tmp_path: Path) -> None:
    state = {f"model.layers.{n}.q_proj.weight": torch.ones(2, 2) for n in range(3)}
    torch.save(state, tmp_path / "last.pt")
    alone = audit(tmp_path / "last.pt").picture
    assert [each.keys for stack in alone for module in stack.modules for each in module.cells] == [{"held": 1}]
    model = {f"layers.{n}.q_proj.weight": (2, 2) for n in range(4)}
    [stack] = audit(tmp_path / "last.pt", model=model).picture
    cells = [(each.at, each.keys) for each in stack.modules[0].cells]
    assert (stack.name, cells) == ("layers", [("0-2", {"renamed": 1}), ("3", {"missing": 1})])

"""What a run prints at its end: a section for each checkpoint, and for many of them a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.auditing.render.lines import Line, View
from pytest_lora_ckpt.auditing.render.terminal import section, verdict
from pytest_lora_ckpt.auditing.render.terminal_failures import failure
from pytest_lora_ckpt.auditing.render.terminal_overview import FEW, heading, needs_section, overview
from pytest_lora_ckpt.pytest_plugin.naming import written_by_pytest
from pytest_lora_ckpt.pytest_plugin.safe_reports import safe_id, show_instead
from pytest_lora_ckpt.wording import WIDTH, SafeText, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from pytest_lora_ckpt.auditing.result import AuditResult


class _Section(NamedTuple):
    """A heading between rules, where there is one, and what is below it."""

    mark: str
    title: SafeText | None
    lines: list[Line]


class Summary:
    """What a run prints at its end, and what the failures before it need not repeat.

    With `-v` everything is shown; with `-q` the verdicts alone, since pytest shows the failures.

    Args:
        config: The run's.
        node: The node of the checks.
    """

    def __init__(self, config: pytest.Config, node: str) -> None:
        """Print nothing yet."""
        self._config, self._node = config, node
        self._sections: list[_Section] = []
        self._failures: dict[str, list[Line]] = {}

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        """The reporter of pytest, through which everything is printed; None with `-p no:terminal`."""
        reporter: pytest.TerminalReporter | None = self._config.pluginmanager.getplugin("terminalreporter")
        return reporter

    @property
    def _view(self) -> View:
        return View(self._config.get_terminal_writer().fullwidth, verbose=self._config.get_verbosity() > 0)

    @property
    def _is_quiet(self) -> bool:
        return self._config.get_verbosity() < 0

    def add(self, name: str, result: AuditResult, *, of: int) -> None:
        """Take in a checkpoint.

        Args:
            name: Its name.
            result: Its result.
            of: How many there are.
        """
        if self._reporter is None:
            return
        view = self._view
        if self._is_quiet:
            told = verdict(result, view, f"LoRA checkpoint {printable(name, WIDTH)}: ")
            self._sections.append(_Section("", None, told))
        elif of <= FEW or view.verbose or needs_section(result):
            self._sections += _sections(name, result, view)
            for check in result.named("failed"):
                own = safe_id(name)
                told = failure(result, check, view)
                self._failures |= {f"{self._node}::{check}[{each}]": told for each in (own, written_by_pytest(own))}

    def close(self, named: Sequence[tuple[str, AuditResult]]) -> None:
        """End with the table, where there are many checkpoints; take out of the failures what the sections say."""
        if self._reporter is None:
            return
        if len(named) > FEW and not self._is_quiet:
            results = [result for _, result in named]
            self._sections.append(_Section("=", heading(results), list(overview(named, self._view))))
        for report in self._reporter.stats.get("failed", ()):
            if (told := self._failures.get(report.nodeid)) is not None:
                show_instead(report, [each.text for each in told])

    def write(self, reporter: pytest.TerminalReporter) -> None:
        """Print it."""
        for each in self._sections:
            if each.title is not None:
                reporter.write_sep(each.mark, each.title)
            for own in each.lines:
                for text, markup in own.spans:
                    reporter.write(text, **markup)
                reporter.write_line("")


def _sections(name: str, result: AuditResult, view: View) -> Iterator[_Section]:
    """Give the sections of one checkpoint: the result, and the score of its loader."""
    yield _Section("=", SafeText(f"LoRA checkpoint: {printable(name, WIDTH)}"), list(section(result, view)))
    if result.faults:
        from pytest_lora_ckpt.scoring import score_lines

        title = SafeText(f"faults: {printable(result.faults['loader'], WIDTH)}")
        yield _Section("-", title, list(score_lines(result.faults, view)))

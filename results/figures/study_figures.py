"""Figures of a study: learning curves of its trials."""

from collections.abc import Sequence

from benchmark.suite.study import Study
from results.board.notes import unit_of
from results.board.row import family_and_source
from results.figures.figures import INK, Plot, family_style
from results.figures.plot import DASH, Axis, Series, Style, chart
from results.store.studies import Trial, best_trial


def figures_of(study: Study, trials: Sequence[Trial]) -> list[Plot]:
    """Learning curves of a study's closed `trials`; no figure if there are none."""
    if not trials:
        return []
    return [
        Plot(
            f"tuning-curves-{study.name}",
            f"Trials of {study}",
            "The lowest validation RMSE so far, by epoch. Coloured: the best trial; dashed: the settings of the suite."
            " A line that ends early was stopped, or its loss was no longer finite.",
            _learning_curves(study, trials),
        )
    ]


def _learning_curves(study: Study, trials: Sequence[Trial]) -> str | None:
    best = best_trial(trials)
    style = family_style(family_and_source(study.model.name)[0])
    series = []
    unit = unit_of("rmse_validation", [study.dataset.name])
    for trial in sorted(trials, key=lambda trial: (trial is best, trial.note.by == "default")):
        marked = trial is best or trial.note.by == "default"
        name = f"trial {trial.note.number}" + (" (default)" if trial.note.by == "default" else "")
        series.append(
            Series(
                name if marked else "",
                list(range(1, len(trial.curve) + 1)),
                trial.curve,
                Style(
                    style.color if trial is best else INK if marked else "#808890",
                    marker="o" if len(trial.curve) == 1 else "",
                    dash=DASH if trial.note.by == "default" else "",
                ),
            )
        )
    return chart(series, Axis("epoch (count)", integer=True), Axis(f"lowest validation RMSE ({unit})", log=True))

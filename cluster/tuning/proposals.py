"""What is tried next. The notes of the trials are its memory: whoever starts again tells it what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmark.suite.study import TUNING_SEED, Settings, Study, draw, rounded, trial_cells
from benchmark.suite.suite import Domain, Range
from results.store.studies import Trial

ATTEMPTS = 200
"""Draws that were tried before, or that no model can have, before the space counts as exhausted."""
IsNew = Callable[[Settings], bool]


class Proposals(Protocol):
    """A search."""

    def tell(self, trial: Trial) -> None:
        """The value of a trial that is at its end."""

    def propose(self, number: int, is_new: IsNew) -> Settings | None:
        """Settings for trial `number`; None where nothing new is left."""


class RandomProposals:
    """Independent draws: trial n is the same whatever came before."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def tell(self, trial: Trial) -> None: ...

    def propose(self, number: int, is_new: IsNew) -> Settings | None:
        drawn = (draw(self.study, number, attempt) for attempt in range(ATTEMPTS))
        return next((settings for settings in drawn if is_new(settings)), None)


class OptunaProposals:
    """Optuna's tree-structured Parzen estimator, told of all that was tried."""

    def __init__(self, study: Study, known: int) -> None:
        import optuna  # an optional library

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study, self.optuna = study, optuna
        self.distributions = {key: self._distribution(domain) for key, domain in study.space.items()}
        # Seeded by how much is known, so that a search that is taken up does not propose its first trials again.
        sampler = optuna.samplers.TPESampler(seed=TUNING_SEED + known)
        self.search = optuna.create_study(direction="minimize", sampler=sampler)

    def tell(self, trial: Trial) -> None:
        """Settings outside of the space, as a default may have, say nothing."""
        from optuna.trial import TrialState, create_trial

        indices = {}
        for key, distribution in self.distributions.items():
            value = self._index(key, trial.note.settings[key])
            if value is None or not distribution._contains(distribution.to_internal_repr(value)):
                return
            indices[key] = value
        told = create_trial(
            params=indices, distributions=self.distributions, value=trial.value, state=TrialState.COMPLETE
        )
        self.search.add_trial(told)

    def propose(self, number: int, is_new: IsNew) -> Settings | None:
        for _ in range(ATTEMPTS):
            asked = self.search.ask(self.distributions)
            settings = {key: self._value(key, value) for key, value in asked.params.items()}
            self.search.tell(asked, state=self.optuna.trial.TrialState.FAIL)  # its value comes by `tell`, as all do
            if is_new(settings):
                return settings
        return RandomProposals(self.study).propose(number, is_new)

    def _distribution(self, domain: Domain) -> Any:
        """Choices by position, for Optuna takes numbers and texts only."""
        if isinstance(domain, Range):
            return self.optuna.distributions.FloatDistribution(domain.low, domain.high, log=True)
        return self.optuna.distributions.CategoricalDistribution(tuple(range(len(domain))))

    def _index(self, key: str, value: Any) -> Any:
        domain = self.study.space[key]
        if isinstance(domain, Range):
            return float(value) if domain.low <= value <= domain.high else None
        return domain.index(value) if value in domain else None

    def _value(self, key: str, value: Any) -> Any:
        domain = self.study.space[key]
        if isinstance(domain, Range):
            return min(max(rounded(value), domain.low), domain.high)
        return domain[value]


class Novelty:
    """Whether settings make cells that no trial has yet, and that can be."""

    def __init__(self, study: Study, trials: Sequence[Trial]) -> None:
        self.study = study
        self.known = {cell.id for trial in trials for cell in trial.cells}

    def __call__(self, settings: Settings) -> bool:
        cells = trial_cells(self.study, settings)
        return cells is not None and cells[0].id not in self.known

    def add(self, trial: Trial) -> None:
        self.known |= {cell.id for cell in trial.cells}

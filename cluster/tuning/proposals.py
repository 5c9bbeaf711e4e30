"""Settings of the next trial, from random search or Optuna. Their only memory are the trials of the study."""

from typing import Any

from benchmark.suite.study import TUNING_SEED, Settings, Study, draw, rounded, trial_cells
from benchmark.suite.suite import Domain, Range
from results.store.studies import Trial

ATTEMPTS = 200
"""Draws without new valid settings after which the space counts as exhausted."""


def is_new(study: Study, settings: Settings, known: set[str]) -> bool:
    """Whether the settings are valid, and make cells whose ids are not `known`."""
    cells = trial_cells(study, settings)
    return cells is not None and cells[0].id not in known


def random_settings(study: Study, number: int, known: set[str]) -> Settings | None:
    """New settings for trial `number`, or None if the space is exhausted. Draws depend on study and number alone."""
    draws = (draw(study, number, attempt) for attempt in range(ATTEMPTS))
    return next((settings for settings in draws if is_new(study, settings, known)), None)


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator; `trials` is the number of trials of the study so far.

    The sampler's seed depends on `trials`, so that a resumed search does not propose its first ones again.
    """

    def __init__(self, study: Study, trials: int) -> None:
        import optuna  # an optional library, which random search does not need

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study, self.optuna = study, optuna
        self.distributions = {key: self._distribution(domain) for key, domain in study.space.items()}
        sampler = optuna.samplers.TPESampler(seed=TUNING_SEED + trials)
        self.search = optuna.create_study(direction="minimize", sampler=sampler)

    def learn(self, trial: Trial) -> None:
        """Learn from a trial, unless its settings are outside the space, as the suite's own may be."""
        params = {key: self._index(key, trial.note.settings[key]) for key in self.distributions}
        if None not in params.values():
            create = self.optuna.trial.create_trial
            self.search.add_trial(create(params=params, distributions=self.distributions, value=trial.value))

    def settings(self, number: int, known: set[str]) -> Settings | None:
        """New settings for trial `number`, or None if the space is exhausted."""
        for _ in range(ATTEMPTS):
            suggestion = self.search.ask(self.distributions)
            settings = {key: self._value(key, value) for key, value in suggestion.params.items()}
            self.search.tell(suggestion, state=self.optuna.trial.TrialState.FAIL)  # `learn` adds its value later
            if is_new(self.study, settings, known):
                return settings
        return random_settings(self.study, number, known)

    def _distribution(self, domain: Domain) -> Any:
        """Distribution over a range, or over the positions of choices: Optuna takes only numbers and texts."""
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

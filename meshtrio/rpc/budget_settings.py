"""The names of the settings that memory budgets of a server come from, for its errors."""

from __future__ import annotations

import attrs

_FRACTION_TEXTS = {1.0: "", 0.5: "half of ", 0.25: "a quarter of ", 0.125: "an eighth of "}


@attrs.frozen
class BudgetSetting:
    """The setting that a budget comes from."""

    name: str
    """The name of the setting, as users write it."""
    ratio: float = 1.0
    """Ratio of the budget to the value of the setting: 1, 0.5 or 0.25."""

    def describe(self, budget: int, fraction: float, whose: str) -> str:
        """Return the bytes of a fraction (1, 0.5 or 0.25) of the budget, and the setting."""
        share = _FRACTION_TEXTS[fraction * self.ratio]
        return f"{int(budget * fraction)} bytes for {whose} ({share}{self.name})"


@attrs.frozen
class BudgetSettings:
    """The settings of a server's memory budgets; by default those of `Limits`."""

    connection: BudgetSetting = BudgetSetting("connection_memory")
    """Of the budget of a connection."""
    peer: BudgetSetting = BudgetSetting("peer_memory")
    """Of the budget of a peer."""
    process: BudgetSetting = BudgetSetting("process_memory")
    """Of the budget of the process."""

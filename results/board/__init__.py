"""The leaderboard: rows, verdicts, standings, comparisons."""

"""Results of the runs: store, statistics, leaderboard, report, figures, MLflow."""

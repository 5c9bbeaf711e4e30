"""What came out: the store, statistics, leaderboard, report, figures, MLflow."""

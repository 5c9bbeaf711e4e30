#!/bin/sh
# Compares tuned models with the settings of their suite, on validation; docs/tuning.md shows the result.
# Run it in the checkout; the store is $SYMBENCH_STORE (default: ./runs).
set -eu
suite=$(dirname "$0")/tuning-demo.yaml
symbench data prepare "$suite"
symbench run "$suite"
symbench tune "$suite" --trials "${1:-8}" --scheduler none  # six epochs are too few for a scheduler
symbench run "$suite" --tuned
symbench leaderboard "$suite" --metric rmse_validation
symbench leaderboard "$suite" --metric rmse_validation --tuned

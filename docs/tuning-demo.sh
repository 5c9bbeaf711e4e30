#!/bin/sh
# Are tuned models at least as good on validation as with the settings that their suite wrote? docs/tuning.md has the
# figures. Run it from the checkout; the store is $SYMBENCH_STORE, by default ./runs.
set -eu
suite=$(dirname "$0")/tuning-demo.yaml
symbench data prepare "$suite"
symbench run "$suite"
symbench tune "$suite" --trials "${1:-8}" --scheduler none  # six epochs are too few to stop a trial by
symbench run "$suite" --tuned
symbench leaderboard "$suite" --metric rmse_validation
symbench leaderboard "$suite" --metric rmse_validation --tuned

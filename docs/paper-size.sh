#!/bin/sh
# Benches and boards that need a GPU, in one command: `make paper`. Called again, it continues.
#   HOURS=8                    stop training after 8 hours and publish the results so far (default: no limit)
#   EPOCHS=20                  train 20 epochs, as suites of their own with the number in their names
#   PARALLEL=4                 cells side by side (default: as many as the machine can hold)
#   MODELS=..., SEEDS=...      models and seeds that train first on one GPU, seed by seed
#   SUITES=quickstart WINDOWS=8 INTO=/tmp/boards    trial run on a CPU; the store is $SYMBENCH_STORE (default: ./runs)
set -eu
cd "$(dirname "$0")/.."
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
device=$([ "$gpus" = 0 ] && echo cpu || echo cuda)
if [ "$device${SUITES:-}" = cpu ]; then
    echo "paper-size.sh: no GPU; SUITES=quickstart is a trial run on a CPU" >&2
    exit 3
fi
suites=${SUITES:-icml2022-rotation precision icml2022-levels}
models=${MODELS:-persistence convnet e2cnn relaxed_steerable_rotation relaxed_group_rotation}
into=${INTO:-results/published}
if [ -n "${EPOCHS:-}" ]; then
    folder=${SYMBENCH_STORE:-runs}/shorter
    mkdir -p "$folder"
    shorter=
    for suite in $suites; do
        sed "s/^name: .*/&-$EPOCHS-epochs/; s/epochs: [0-9]*/epochs: $EPOCHS/" "suites/$suite.yaml" > "$folder/$suite.yaml"
        shorter="$shorter $folder/$suite.yaml"
    done
    suites=${shorter# }
fi
deadline=$(python -c "import time; print(int(time.time() + 3600 * ${HOURS:-1e6}))")

# Cells stopped by Ctrl-C or the deadline continue in the next call. A failed cell does not stop the others.
run() {
    seconds=$((deadline - $(date +%s)))
    [ "$seconds" -gt 0 ] || return 0
    timeout --foreground --signal=INT "$seconds" symbench run "$@" ${PARALLEL:+--parallel "$PARALLEL"} || {
        status=$?
        [ "$status" = 1 ] || [ "$status" = 124 ] || exit "$status"
    }
}

# A failed bench does not stop the boards; the script then ends with 1.
failed=
bench() {
    name=$1
    file=$into/bench-$name-$device.json
    shift
    [ -e "$file" ] || python -m "$@" --json "$file" || failed="$failed $name"
}

publish() {
    symbench publish "$1" ${INTO:+--into "$INTO"} || {
        status=$?
        [ "$status" = 2 ] || exit "$status"  # 2: no cell is done yet
    }
}

mkdir -p "$into"
wanted=$(echo "$models" | tr ' ' ,)
bench epoch-demo benchmark.bench.epoch quickstart --models "$wanted"
bench epoch-paper benchmark.bench.epoch "${suites%% *}" --models "$wanted" --windows "${WINDOWS:-128}"
bench ddp-demo benchmark.bench.ddp quickstart --models "$wanted"
bench ddp-paper benchmark.bench.ddp "${suites%% *}" --models "$wanted" --rounds 5 --steps 2
for suite in $suites; do
    symbench data prepare "$suite"
done
for suite in $suites; do
    [ "$gpus" -gt 1 ] || for seed in ${SEEDS:-0 1 2}; do
        for model in $models; do
            only=model=$model,seed=$seed
            ! symbench plan "$suite" --only "$only" >/dev/null 2>&1 || run "$suite" --only "$only"
        done
        publish "$suite"
    done
done
for suite in $suites; do  # the other models; on several GPUs all models, side by side
    run "$suite"
    publish "$suite"
done
[ -z "$failed" ] || { echo "paper-size.sh: failed benches:$failed" >&2; exit 1; }

#!/bin/sh
# The benches and the boards that need a GPU, in one command: `make paper`. Called again, it goes on where it was.
#   HOURS=8                    stop training after so long, and publish what there is; all of it by default
#   EPOCHS=20                  the suites with so many epochs, which are suites of their own and named so
#   PARALLEL=4                 so many cells side by side; by default as many as the machine has room for
#   MODELS=..., SEEDS=...      what comes first on one GPU: these models with the first seed, then with the next
#   SUITES=quickstart WINDOWS=8 INTO=/tmp/boards    to try it on a CPU; the store is $SYMBENCH_STORE, by default ./runs
set -eu
cd "$(dirname "$0")/.."
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
here=$([ "$gpus" = 0 ] && echo cpu || echo cuda)
if [ "$here${SUITES:-}" = cpu ]; then
    echo "paper-size.sh: there is no GPU here; SUITES=quickstart tries the command on a CPU" >&2
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

# What Ctrl-C or the deadline stops goes on from its last whole epoch. A cell that failed is named by the board and does not stop the others.
run() {
    left=$((deadline - $(date +%s)))
    [ "$left" -gt 0 ] || return 0
    timeout --foreground --signal=INT "$left" symbench run "$@" ${PARALLEL:+--parallel "$PARALLEL"} || {
        status=$?
        [ "$status" = 1 ] || [ "$status" = 124 ] || exit "$status"
    }
}

bench() {
    file=$into/bench-$1-$here.json
    shift
    [ -e "$file" ] || python -m "$@" --json "$file"
}

publish() {
    symbench publish "$1" ${INTO:+--into "$INTO"} || {
        status=$?
        [ "$status" = 2 ] || exit "$status"  # 2: nothing is finished yet
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
for suite in $suites; do  # the other models; on several GPUs all of them, side by side
    run "$suite"
    publish "$suite"
done

#!/usr/bin/env bash
# The demo: installs what is missing, builds, and tunes six small tasks at once on one backbone, with five kinds of PEFT, on three
# MPI ranks: a coordinator and two stages. Then it shows each job's evaluation loss and a few completions before and after.
#   cluster/demo.sh [DIR]     run folder; default: build/demo, made anew
set -euo pipefail
cd "$(dirname "$0")/.."

cluster/install.sh
cmake -S . -B build -G Ninja -DCOPPICE_TESTS=OFF >/dev/null
cmake --build build --target coppice

dir=${1:-build/demo}
[ $# -gt 0 ] || rm -rf "$dir"
backbone=cluster/demo/backbone
started=$SECONDS
# Two cores carry three ranks: the coordinator sleeps between messages. mpirun passes no terminal on, so the table is asked for.
mpi=(mpirun -n 3 --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)
progress=lines
[ ! -t 2 ] || progress=table
"${mpi[@]}" build/coppice run cluster/demo/jobs.yaml --output "$dir" --stages 2 --progress $progress

printf '\n%-16s %12s %12s\n' 'evaluation loss' before after
for job in scripture iso-date part-of-speech define manual synonym; do
  grep "\"job\":\"$job\".*eval_loss" "$dir/metrics.jsonl" |
    sed -E 's/.*"eval_loss":([0-9.eE+-]+).*/\1/' |
    awk -v job="$job" 'NR == 1 { before = $1 } { after = $1 } END { printf "%-16s %12.3f %12.3f\n", job, before, after }'
done

# job, tokens, prompt (from the evaluation sets): what the bare backbone and the tuned one make of it
show() {
  local job=$1 common=(--backbone "$backbone" --prompt "$3" --max-new-tokens "$2")
  printf '\n[%s] %s\n  before: %s\n  after:  %s\n' "$job" "${3//$'\n'/ | }" \
    "$(build/coppice generate "${common[@]}" | tr '\n' ' ')" \
    "$(build/coppice generate "${common[@]}" --adapter "$dir/adapters/$job" | tr '\n' ' ')"
}
show iso-date 12 $'Date: January 27, 2064\nISO:'
show iso-date 12 $'Date: 22 February 2065\nISO:'
show part-of-speech 6 $'Definition: having four sides\nPart of speech:'
show part-of-speech 6 $'Definition: move along, of liquids\nPart of speech:'
show define 24 $'Define the verb "reorder".\n'
show define 24 $'Define the noun "animation".\n'
show manual 6 $'Text: Fix a bug in the b-tree delete algorithm that seems like it might be able to cause database corruption.\nManual:'
show manual 6 $'Text: This change supports use of shared_preload_libraries to load custom access methods and WAL resource managers.\nManual:'
show synonym 8 $'Give a synonym.\nidle (not having a job)\n'
show synonym 8 $'Give a synonym.\nmate (one of a pair)\n'
show scripture 24 'And it came to pass the same night, that'
show scripture 24 'And he called Gehazi, and said,'
printf '\nadapters: %s/adapters   from the start of the run to here: %s s\n' "$dir" $((SECONDS - started))

#!/usr/bin/env bash
# Runs a job file over MPI ranks: one coordinator, R parameter ranks, P pipelines of S stages.
#   cluster/mpirun/run.sh JOBS.yaml DIR --stages S [--pipelines P] [--param-ranks R] [any option of coppice run]
# From the environment: COPPICE (the program), HOSTS (a host file; without it all ranks run here), MPIRUN_OPTIONS.
# Ctrl-C, SIGTERM and SIGUSR1 ask for an orderly stop, which commits first; a second one ends all ranks at once.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

# As many ranks as coppice run accepts: 1 + R + P x S.
stages=1 pipelines=1 param_ranks=0
arguments=("$@")
for ((i = 0; i < $#; ++i)); do
  value=${arguments[i]#*=}
  [[ ${arguments[i]} == --*=* ]] || value=${arguments[i + 1]:-}
  case ${arguments[i]} in
    --stages | --stages=*) stages=$value ;;
    --pipelines | --pipelines=*) pipelines=$value ;;
    --param-ranks | --param-ranks=*) param_ranks=$value ;;
  esac
done
for value in "$stages" "$pipelines" "$param_ranks"; do
  [[ $value =~ ^[0-9]{1,5}$ ]] || { echo "'$value' stages, pipelines or parameter ranks; a whole number is accepted" >&2; exit 2; }
done
ranks=$((1 + param_ranks + pipelines * stages))

options=(-n "$ranks")
if [ -n "${HOSTS:-}" ]; then
  options+=(--hostfile "$HOSTS")
else
  options+=(--oversubscribe) # more ranks than cores: the coordinator and idle ranks sleep
fi
options+=(--bind-to none) # a rank has threads of its own; by default mpirun gives it one core
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
read -ra more <<<"${MPIRUN_OPTIONS:-}"

# mpirun answers SIGINT and SIGTERM by ending its ranks within two seconds; SIGUSR1 it hands on to them, and there it
# means stop when all is committed. In a session of its own it does not see the terminal's Ctrl-C.
setsid mpirun "${options[@]}" "${more[@]}" "${COPPICE:-coppice}" run "$1" --output "$2" "${@:3}" </dev/null &
mpirun=$!
stops=0
stop() {
  stops=$((stops + 1))
  if [ $stops -eq 1 ]; then
    kill -USR1 $mpirun 2>/dev/null || true
  else
    kill -TERM $mpirun 2>/dev/null || true
  fi
}
trap stop INT TERM USR1

status=0
while :; do # a signal ends the wait, not mpirun
  status=0
  wait $mpirun || status=$?
  kill -0 $mpirun 2>/dev/null || break
done
exit $status

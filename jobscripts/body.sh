# ---- body.sh: the same at every site -------------------------------------------------------------
#
# Set above: PROGRAM, DECKS and OUTPUTS (one an array task), REQUEUE, MAX_RESTARTS.
#
# Slurm warns this shell before the time is up (--signal=B:USR1@...), and warns it or the ranks by
# SIGTERM before it preempts them. All ranks then finish the tile in flight and end with code 75,
# and the job goes back into the queue, or leaves the rest to the next job of its chain.
# Exit codes: 0 done, 75 stopped (submit again to resume), others failed; see `hpcnk --help`.
set -u

[ -n "${SLURM_JOB_ID:-}" ] || { echo "jobscript: submit this with sbatch" >&2; exit 2; }

TASK=${SLURM_ARRAY_TASK_ID:-0}
DECK=${DECKS[$TASK]}
OUTPUT=${OUTPUTS[$TASK]}
# Of an array, the bare number of the last task is also that of all tasks.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$TASK}
JOB=${JOB:-$SLURM_JOB_ID}
RESTARTS=${SLURM_RESTART_COUNT:-0}

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since Slurm 22.05 srun does not take it from sbatch
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export CUPY_CACHE_DIR=${CUPY_CACHE_DIR:-${TMPDIR:-/tmp}/cupy-$SLURM_JOB_ID} # local to each node
export CUPY_TF32=0 # else a GPU may round scalar products to 10 bits

say() { echo "jobscript: $*"; }

SRUN= STOPPING= INTERRUPTED=
stop() { # NAME of the signal
    STOPPING=$1 INTERRUPTED=yes
    say "received $1, the ranks are told to stop"
    [ -z "$SRUN" ] || kill -USR1 "$SRUN" 2>/dev/null # srun forwards it to all ranks
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM

# Changes when a tile, a checkpoint or a result was finished, and by nothing else.
progress() {
    find "$OUTPUT" -type f ! -empty \( -path '*.journal/*' -o -name 'checkpoint-*.h5' \
        -o -name inputs.h5 -o -name variances.h5 -o -name solution.h5 -o -name predictions.h5 \) \
        -printf '%P %s %T@\n' 2>/dev/null | LC_ALL=C sort | cksum
}

# Removes the jobs that wait for this one as links of the same chain; nothing is left for them. Of an
# array, other tasks may still need the next link.
end_chain() {
    [ "$REQUEUE" = no ] && [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || return 0
    squeue --noheader --user="$(id -un)" --name="$SLURM_JOB_NAME" --states=PENDING \
        --format='%i %E' | awk '/singleton/ { print $1 }' | xargs -r scancel
}

# Why the job must not go back into the queue; nothing if it may.
objection() {
    local state
    state=$(squeue --noheader --jobs="$JOB" --format=%T)
    if [ "$state" != RUNNING ]; then
        echo "Slurm ends it (${state:-it is gone}); submit again to resume"
    elif [ "$STOPPING" = USR1 ] && [ "$BEFORE" = "$(progress)" ]; then
        echo "nothing was finished within the time limit; give it more time, or smaller tiles"
    elif [ "$REQUEUE" = no ]; then
        echo "requeueing is not used at this site; the next job of the chain goes on"
    elif [ "$RESTARTS" -ge "$MAX_RESTARTS" ]; then
        echo "it was restarted $RESTARTS times; submit again to resume"
    fi
}

say "start $((RESTARTS + 1)) of job $JOB: $SLURM_JOB_NUM_NODES node(s) of $SLURM_NTASKS_PER_NODE rank(s)" \
    "with $OMP_NUM_THREADS thread(s) each, $(date '+%F %T')"
BEFORE=$(progress)
# In the background, for bash runs traps only between commands and in `wait`. A rank that dies alone
# takes the others with it after --wait seconds, if its MPI does not do that at once. Where all ranks
# say that they are rank 0 of 1, srun needs another --mpi (`srun --mpi=list`; Open MPI: pmix).
srun --wait=60 "${PROGRAM[@]}" run "$DECK" &
SRUN=$! LAUNCHED=$SECONDS
while :; do
    if [ -n "$INTERRUPTED" ] && [ $((SECONDS - LAUNCHED)) -le 3 ]; then
        sleep 1 # the signal may have come before srun, or have met bash in its place: once more
        kill -USR1 "$SRUN" 2>/dev/null
    fi
    INTERRUPTED=
    wait "$SRUN"
    CODE=$?
    [ -n "$INTERRUPTED" ] || break # else a trap has ended `wait`, not srun
done

case $CODE in
    0)
        say "done, $(date '+%F %T')"
        end_chain
        exit 0
        ;;
    75 | 138 | 143) ;; # stopped; 128 + USR1 or TERM: before the ranks listened to signals
    *)
        say "failed with code $CODE"
        end_chain
        exit "$CODE"
        ;;
esac

OBJECTION=$(objection)
if [ -n "$OBJECTION" ]; then
    say "stopped, not requeued: $OBJECTION"
    exit 75
fi
trap '' USR1 TERM # requeueing ends this shell
say "stopped, requeued, $(date '+%F %T')"
scontrol requeue "$JOB" || say "Slurm refuses: submit a chain instead, sbatch --dependency=singleton"
exit 75

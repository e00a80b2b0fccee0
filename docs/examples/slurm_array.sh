#!/bin/bash
# A study as an array of shards, each in a store of its own:
#   sbatch docs/examples/slurm_array.sh cifar10-resnet18 --device cuda
# The shards are as many as the array has tasks. A part of them again: sbatch --array=3,5 ...
#SBATCH --job-name=fasttrain
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=fasttrain-%A_%a.log

shards=8

# SIGTERM comes 120 s before the time is up, or when the task is preempted: to the step, not here.
srun fasttrain sweep "$@" --shard "$SLURM_ARRAY_TASK_ID/$shards"
code=$?
if [ "$code" -eq 143 ]; then
    # It has kept its checkpoints: the same task goes on there.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"

#!/bin/bash
# One sweep over the nodes of a job, by Ray:
#   sbatch docs/examples/slurm_ray.sh cifar10-resnet18 --device cuda
# Ray starts on every node, the sweep on the first; all of it ends with the job.
#SBATCH --job-name=fasttrain
#SBATCH --nodes=4
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=fasttrain-%j.log

# Who reaches Ray's ports runs programs, unless it wants a token: ~/.ray/auth_token, on all nodes.
ray get-auth-token --generate > /dev/null || exit 1
export RAY_AUTH_MODE=token
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:$((20000 + SLURM_JOB_ID % 10000))"
pid=$(mktemp)

# SIGTERM comes to this script 120 s before the time is up. It is for the sweep alone, whose tasks
# can only tell where they stand while Ray is there.
stopping=""
trap 'stopping=1; kill -TERM "$(cat "$pid")"' TERM
# Since Slurm 22.05 srun takes no number of CPUs from the job.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
	--num-cpus "$SLURM_CPUS_PER_TASK" -- \
	bash -c 'echo $$ > "$0"; exec fasttrain sweep "$@" --engine ray --address auto' "$pid" "$@" &
wait $!
code=$?
if [ -n "$stopping" ]; then
	wait $!
	code=$?
fi
rm -f "$pid"
if [ "$code" -eq 143 ]; then
	# It has kept its checkpoints: the same job goes on there.
	scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

# CPU nodes with two sockets. Copy, adapt the numbers, the partition and the account, and give
# `--site PATH` of your copy.
#
# #HPCNK lines tell `hpcnk jobscript` about a node: cpus and memory (M or G) as Slurm counts them,
# ranks to start on it, the longest time, seconds of warning before its end, whether a job may put
# itself back into the queue. GPUs: their number on a node. whole-nodes=yes: jobs need not ask for
# memory. #SBATCH lines and commands are copied.
#HPCNK cpus=64 ranks=2 memory=240G
#HPCNK time=24:00:00 warning=300 requeue=yes
##SBATCH --partition=compute
##SBATCH --account=CHANGE_ME
# module load openmpi hdf5

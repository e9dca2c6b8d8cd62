# After CSC's Mahti: 128 cores and 4 A100 a node, an account for billing, GPUs by --gres with their
# type. An example, not tried there: see https://docs.csc.fi/computing/running/ for what holds today.
#HPCNK cpus=128 gpus=4 ranks=4 memory=480G
#HPCNK time=36:00:00 warning=300 requeue=yes
#SBATCH --account=project_CHANGE_ME
#SBATCH --partition=gpumedium
#SBATCH --gres=gpu:a100:4
# module load gcc openmpi hdf5 cuda

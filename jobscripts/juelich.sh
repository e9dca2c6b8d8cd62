# After Juelich's JUWELS Booster: 48 cores of two hardware threads and 4 A100 a node, whole nodes, a
# budget as the account. An example, not tried there: see https://apps.fz-juelich.de/jsc/hps/ for
# what holds today. Long work is sent as a chain of jobs rather than requeued:
# `for i in 1 2 3 4; do sbatch --dependency=singleton SCRIPT; done`
#HPCNK cpus=96 gpus=4 ranks=4 memory=480G whole-nodes=yes
#HPCNK time=24:00:00 warning=300 requeue=no
#SBATCH --account=CHANGE_ME
#SBATCH --partition=booster
#SBATCH --gres=gpu:4
# module load Stages/2025 GCC OpenMPI Python HDF5 CUDA

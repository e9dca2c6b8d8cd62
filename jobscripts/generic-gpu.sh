# Nodes with 4 GPUs; a rank for each, which takes the GPU of its number on the node. All ranks of a
# node see all of its GPUs: binding one to each task would break CUDA's transfers between them.
# What the #HPCNK lines mean is said in generic-cpu.sh.
#HPCNK cpus=64 gpus=4 ranks=4 memory=480G
#HPCNK time=24:00:00 warning=300 requeue=yes
#SBATCH --gpus-per-node=4
##SBATCH --partition=gpu
##SBATCH --account=CHANGE_ME
# module load openmpi hdf5 cuda

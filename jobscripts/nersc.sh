# After NERSC's Perlmutter: 64 cores of two hardware threads and 4 A100 a node, chosen by
# --constraint. An example, not tried there: see https://docs.nersc.gov/jobs/ for what holds today.
# With --qos=preempt jobs cost less, may be preempted after two hours, and go on by themselves.
#HPCNK cpus=128 gpus=4 ranks=4 memory=240G whole-nodes=yes
#HPCNK time=24:00:00 warning=300 requeue=yes
#SBATCH --account=CHANGE_ME
#SBATCH --constraint=gpu
#SBATCH --qos=regular
#SBATCH --gpus-per-node=4
# module load python
# Cray's MPICH: build mpi4py and h5py with it. Its files on the scratch file system need
# export HDF5_USE_FILE_LOCKING=FALSE

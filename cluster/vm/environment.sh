# What a shell on each machine of `ray up` begins with; Ray's own commands run in such a shell.
export PATH=$HOME/mergenet/bin:$PATH
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export MERGENET_RUNS=/mnt/mergenet/runs MERGENET_RESULTS=/mnt/mergenet/results MERGENET_DATA=/mnt/mergenet/data
if [ -e ~/ray_bootstrap_config.yaml ]; then # on the head alone, where commands run: the cluster they join
  RAY_ADDRESS=$(hostname -I | awk '{ print $1 }'):6379
  export RAY_ADDRESS
fi

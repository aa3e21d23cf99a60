"""Where runs happen: on this machine, on a cluster of Ray's, as its jobs; looked at before it is trusted."""

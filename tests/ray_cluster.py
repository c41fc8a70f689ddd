"""A real Ray cluster of several nodes on this machine, in a process of its own.

In, a line each: "kill" (a node, at once). Out: a JSON line with the address, and one for each kill.
Ends, and the cluster with it, when its input does.
"""

import json
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster


def main() -> None:
    """One head without room for work, and nodes with one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]))]
    print(json.dumps({"address": cluster.address}), flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print(json.dumps({"left": len(nodes)}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

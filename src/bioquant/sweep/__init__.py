"""A sweep: its cells planned first, then run group by group in worker processes, all under one parent run.

launch   the whole of it, stage by stage             site ray_site  where workers run: this machine, a Ray cluster
cells    which can run, in which order               devices        GPUs and CPU threads, packed
preview  the plan that is shown                      queue          which cell a worker takes next
parent   the sweep's own MLflow run                  crew desk      workers at work, replaced when they die
display  how far it is                               process worker a worker from outside and from inside
"""

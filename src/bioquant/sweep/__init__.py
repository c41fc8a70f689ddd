"""A sweep: its cells planned first, then run group by group in worker processes, all under one parent run.

grid     composes the cells                          site ray_site  where workers run: this machine, a Ray cluster
cells    which can run, in which order               devices        GPUs and CPU threads, packed
preview  the plan that is shown                      queue          which cell a worker takes next
launch   the whole of it, stage by stage             crew desk      workers at work, replaced when they die
parent   the sweep's own MLflow run                  process worker a worker from outside and from inside
display  how far it is
"""

"""A recipe as an endpoint: rows in, structured answers out, by the stages that evaluated it.

requests   what a row of each kind of task holds        answers   a prediction as a client reads it
answerer   a recipe, loaded                              batches   requests that come together are answered together
app        HTTP                                          server    the process around it
model      the MLflow pyfunc; `model_code` is the file that is stored with each version
"""

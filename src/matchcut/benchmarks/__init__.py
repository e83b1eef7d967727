"""The field's benchmarks: their protocols, scores of anyone's masks by them, and reports. No name here loads torch
but `run`, which evaluates a model."""

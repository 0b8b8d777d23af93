from bench.results import Results
def makers(results): return {}

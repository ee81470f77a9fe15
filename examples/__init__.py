"""What users start from: the demo, the slides' experiments, and the data sets that they run on."""
